"""Turn the relaxations of potential.yaml into pairs of first and last frames for a direct model,
with the same split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write

from geocalc.data import Sample, reference_relaxations
from geocalc.train import Recipe

FIRST, LAST = "first.extxyz", "last.extxyz"


def write_pairs(recipe: Recipe, folder: Path) -> None:
    """Write both files into `folder`, unless they are there; `part` says what the recipe holds out."""
    if (folder / LAST).exists():
        return
    found: tuple[list[Atoms], list[Atoms]] = ([], [])
    for held_out in (False, True):
        for reference in reference_relaxations(recipe.data, 0, validation=held_out):
            info = {
                "REF_energy": reference.last.energy,
                "sid": reference.last.group,
                "part": "held-out" if held_out else "learned",
            }
            for atoms, one in zip(found, (reference.first, reference.last), strict=True):
                atoms.append(_atoms(one))
                atoms[-1].info |= info
    folder.mkdir(parents=True, exist_ok=True)
    for name, atoms in zip((FIRST, LAST), found, strict=True):
        write(folder / name, atoms)


def _atoms(sample: Sample) -> Atoms:
    atoms = Atoms(
        sample.numbers, sample.positions, cell=sample.cell, pbc=sample.pbc, tags=sample.tags
    )
    atoms.set_constraint(FixAtoms(np.flatnonzero(sample.fixed.all(1))))
    return atoms
