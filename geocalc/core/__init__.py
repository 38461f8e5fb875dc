"""A batch of structures and the arithmetic on it; settings, files and processes."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "Energy": "energies",
        "EnergyBasis": "energies",
        "EnergyKind": "energies",
        "N_ELEMENTS": "elements",
        "Potential": "systems",
        "Prediction": "systems",
        "Reference": "energies",
        "Settings": "settings",
        "Systems": "systems",
        "adsorption_energy": "energies",
        "available_cores": "process",
        "concatenate": "systems",
        "configure_process": "process",
        "covalent_radii": "elements",
        "element_properties": "elements",
        "free_atoms": "systems",
        "groups": "elements",
        "in_ev": "units",
        "one_thread": "process",
        "override": "settings",
        "periods": "elements",
        "read_yaml": "settings",
        "select": "systems",
        "symbols": "elements",
        "write_atomically": "files",
    },
)
