"""Loaded models: functions from structures to energies and forces."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "About": "card",
        "AsePotential": "ase",
        "CARD": "registry",
        "Calibration": "calibration",
        "DirectModel": "cached",
        "Domain": "domain",
        "EnergyModel": "network",
        "ForceMode": "network",
        "Level": "card",
        "LoadedModel": "load",
        "ModelCard": "card",
        "NetworkPotential": "network",
        "Scales": "network",
        "Task": "card",
        "WEIGHTS": "registry",
        "calibrate": "calibration",
        "card_values": "registry",
        "coverage": "calibration",
        "direct_model": "cached",
        "domain_tensors": "domain",
        "find_model": "registry",
        "list_models": "registry",
        "load_model": "load",
        "model_task": "registry",
        "read_card": "registry",
        "replicate": "frame_averaging",
        "shipped_folder": "registry",
        "write_card": "registry",
        "write_domain": "registry",
    },
)
