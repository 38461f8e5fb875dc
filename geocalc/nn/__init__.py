"""Reusable layers."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "AtomEmbedding": "embedding",
        "EdgeFeatures": "edges",
        "EdgeForceHead": "heads",
        "EdgeIndex": "edges",
        "EnergyHead": "heads",
        "ForceDecoder": "heads",
        "ForceHead": "heads",
        "ForceNorm": "heads",
        "GaussianBasis": "basis",
        "GraphNorm": "norm",
        "Interaction": "interaction",
        "MessageType": "interaction",
        "Norm": "interaction",
        "Repulsion": "repulsion",
        "Theta": "relaxed_weights",
        "ThetaBlock": "relaxed_weights",
        "cosine_envelope": "basis",
        "polynomial_envelope": "basis",
        "shifted_softplus": "activation",
        "swish": "activation",
        "theta_penalty": "relaxed_weights",
        "thetas": "relaxed_weights",
    },
)
