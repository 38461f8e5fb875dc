"""Glass-forming liquids: configurations, the Kob-Andersen potential, simulations and dynamics."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "GlassConfiguration": "configuration",
        "GlassSettings": "simulation_settings",
        "InherentStructure": "inherent",
        "KobAndersen": "kob_andersen",
        "LammpsEngine": "lammps_engine",
        "MolecularDynamics": "simulation",
        "Neighborhood": "neighborhood",
        "Propensity": "dynamics",
        "ageing": "dynamics",
        "build_neighborhood": "neighborhood",
        "claim_folder": "simulation",
        "configuration_of": "configuration",
        "glass_atoms": "configuration",
        "glass_systems": "inherent",
        "inherent_structure": "inherent",
        "propensity": "dynamics",
        "read_configuration": "configuration",
        "relaxation_time": "dynamics",
        "require_lammps": "lammps_engine",
        "scattering": "dynamics",
        "simulate": "simulation",
        "write_configuration": "configuration",
    },
)
