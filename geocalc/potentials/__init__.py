"""Loaded models: functions from structures to energies and forces."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "AsePotential": "ase",
        "CARD": "registry",
        "Calibration": "calibration",
        "DirectModel": "cached",
        "EnergyKind": "card",
        "EnergyModel": "network",
        "ForceMode": "network",
        "Level": "card",
        "LoadedModel": "registry",
        "ModelCard": "card",
        "NetworkPotential": "network",
        "Scales": "network",
        "Task": "card",
        "WEIGHTS": "registry",
        "calibrate": "calibration",
        "card_values": "registry",
        "coverage": "calibration",
        "direct_model": "cached",
        "find_model": "registry",
        "is_property": "registry",
        "list_models": "registry",
        "load_model": "registry",
        "read_card": "registry",
        "replicate": "frame_averaging",
        "shipped_folder": "registry",
        "write_card": "registry",
    },
)
