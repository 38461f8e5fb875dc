"""Molecules with energies and forces of EMT, in files and in any unit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import write
from scipy import constants

from helpers.structures import rattled
from helpers.training import labeled, recipe_values

NAMES = ("H2O", "CH4", "NH3", "CH3OH")
J_PER_EV = constants.e
KCAL = 4184.0 / constants.N_A / J_PER_EV  # eV
TINY = {  # of each architecture
    "faenet": {
        "cutoff": 4.0,
        "hidden_channels": 16,
        "num_filters": 8,
        "num_interactions": 1,
        "num_gaussians": 6,
        "tag_hidden_channels": 0,
        "pg_hidden_channels": 0,
    },
    "schnet": {
        "cutoff": 4.0,
        "hidden_channels": 16,
        "num_filters": 8,
        "num_interactions": 1,
        "num_gaussians": 6,
    },
}


def molecules(n: int = 40) -> list[Atoms]:
    """Stretched and slightly rattled molecules of H, C, N and O, one after the other, with labels
    of EMT and a name each.
    """
    made = []
    for k, size in enumerate(np.random.default_rng(0).uniform(0.95, 1.1, n)):
        atoms = rattled(molecule(NAMES[k % len(NAMES)]), 0.01, k)
        atoms.positions *= size
        made.append(labeled(atoms, name=k))
    return made


def dynamics(n: int = 40) -> list[Atoms]:
    """Frames of one molecule, methanol."""
    return [labeled(rattled(molecule("CH3OH"), 0.05, k)) for k in range(n)]


def write_energies(path: Path, frames: Sequence[Atoms], key: str, ev: float) -> Path:
    """A file as QM7's: names and energies, in a unit that is `ev` eV, no forces."""
    bare = [
        Atoms(
            f.numbers,
            f.positions,
            info={"name": f.info["name"], key: f.calc.results["energy"] / ev},
        )
        for f in frames
    ]
    write(path, bare)
    return path


def rmd17_arrays(frames: Sequence[Atoms]) -> dict[str, np.ndarray]:
    """Frames of one molecule as rMD17 stores them, in kcal/mol."""
    return {
        "nuclear_charges": frames[0].numbers.astype(np.uint8),
        "coords": np.stack([f.positions for f in frames]),
        "energies": np.array([f.calc.results["energy"] for f in frames]) / KCAL,
        "forces": np.stack([f.calc.results["forces"] for f in frames]) / KCAL,
        "old_indices": np.arange(len(frames)) * 7,
    }


def molecule_values(
    data: Path, architecture: str = "faenet", frames: str = "pca-3d-stochastic", **training: Any
) -> dict[str, Any]:
    """A recipe for molecules: all PCA frames in use, `frames` in training; distances need none."""
    values = recipe_values(data, frames=frames, **training)
    values["model"] = {
        "architecture": architecture,
        "settings": dict(TINY[architecture]),
        "frames": "pca-3d" if architecture == "faenet" else "none",
        "reads_tags": False,
    }
    values["data"]["images_per_group"] = 1
    return values


def energies_alone(values: dict[str, Any], key: str, unit: str) -> dict[str, Any]:
    """The same recipe for a file of `write_energies`."""
    values["model"]["force_mode"] = "none"
    values["training"]["force_weight"] = 0.0
    values["data"]["sources"][0] |= {"energy_key": key, "energy_unit": unit, "group_key": "name"}
    return values
