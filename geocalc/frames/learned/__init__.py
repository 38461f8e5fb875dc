"""Canonicalizers: modules that give every structure of a batch its frames."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "CANONICALIZERS": "catalog",
        "Canonicalizer": "base",
        "CanonicalizerKind": "catalog",
        "CanonicalizerSettings": "settings",
        "Geometry": "base",
        "PolicyFrames": "base",
        "SignNetMLP": "signnet",
        "SignNetMLPSettings": "settings",
        "SignNetVN": "signnet",
        "VNDGCNN": "vn_dgcnn",
        "VNPointNet": "vn_pointnet",
        "VectorNeuronSettings": "settings",
        "build_canonicalizer": "catalog",
    },
)
