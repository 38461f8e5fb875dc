"""Export structures for models in separate environments: files for ASE with the labels and the
split of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write

from geocalc.data import (
    ReferenceRelaxation,
    Sample,
    prepare_store,
    read_store,
    reference_relaxations,
)
from geocalc.train import Recipe

ALLOYS = 4  # every fourth frame of clean slabs, as many as an epoch of the recipe draws


def to_atoms(sample: Sample) -> Atoms:
    """A labeled structure; its energy is that of adsorption."""
    atoms = Atoms(
        sample.numbers, sample.positions, cell=sample.cell, pbc=sample.pbc, tags=sample.tags
    )
    atoms.set_constraint(FixAtoms(np.flatnonzero(sample.fixed.all(1))))
    atoms.info = {"REF_energy": sample.energy, "sid": sample.group}
    atoms.arrays["REF_forces"] = sample.forces
    return atoms


def held_out_relaxations(recipe: Recipe) -> list[ReferenceRelaxation]:
    """Those of pure metals that training has not seen."""
    return reference_relaxations(recipe.data, 0)


def export(recipe: Recipe, data: Path, folder: Path) -> None:
    """train, points, starts, relaxed and slabs, as extxyz, in `folder`, unless they are there."""
    if (folder / "slabs.extxyz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    samples = read_store(prepare_store(recipe, data))
    adslabs, alloys = (
        samples.training.where(samples.training.sample_index.source == k) for k in (0, 1)
    )
    _write(folder / "train.extxyz", [*adslabs, *list(alloys)[::ALLOYS]])
    _write(
        folder / "points.extxyz", samples.held_out.where(samples.held_out.sample_index.source == 0)
    )
    _write(folder / "starts.extxyz", [r.first for r in held_out_relaxations(recipe)])
    ended = [r.last for r in reference_relaxations(recipe.data, 0, validation=False)]
    _write(folder / "relaxed.extxyz", ended)
    slabs: dict[str, Atoms] = {}
    for reference in reference_relaxations(recipe.data, 0, validation=None):
        atoms = to_atoms(reference.first)
        slab = atoms[: len(reference.first.fixed) - int((atoms.get_tags() == 2).sum())]
        slabs.setdefault(slab.symbols[0], slab)
    write(folder / "slabs.extxyz", list(slabs.values()))


def _write(path: Path, samples: Iterable[Sample]) -> None:
    write(path, [to_atoms(sample) for sample in samples])
