"""Run every row once on a few EMT slabs, to test that it can be trained, measured and read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from ase.optimize import BFGS
from pairs import FIRST, LAST
from rows import PAIRS, Row

METALS, ADSORBATES, SITES = ("Cu", "Pt"), ("O", "C"), ("fcc", "ontop")
STEPS = 4  # frames of a relaxation, beside the first
TRAJECTORY = "trajectory.extxyz"
SHORT = {
    "training.steps": 2,
    "training.batch_size": 2,
    "training.evaluate_every": 2,
    "training.checkpoint_every": 2,
    "training.log_every": 1,
    "fitted_references.elements": ["O", "C"],
}


def write_data(folder: Path) -> None:
    """Relaxations, and their first and last frames, with every label that a recipe of the study
    asks for.
    """
    relaxations = [
        _relaxation(metal, adsorbate, site, number)
        for number, (metal, adsorbate, site) in enumerate(
            (m, a, s) for m in METALS for a in ADSORBATES for s in SITES
        )
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / TRAJECTORY, [frame for frames in relaxations for frame in frames])
    write(folder / FIRST, [_labeled(frames[0], frames[-1]) for frames in relaxations])
    write(folder / LAST, [_labeled(frames[-1], frames[-1]) for frames in relaxations])


def _relaxation(metal: str, adsorbate: str, site: str, number: int) -> list[Atoms]:
    slab = fcc111(metal, (2, 2, 3), vacuum=6.0, periodic=True)
    tags = np.where(slab.get_tags() == 1, 1, 0)
    add_adsorbate(slab, adsorbate, 1.6, site)
    slab.set_tags(np.append(tags, 2))
    slab.set_constraint(FixAtoms(np.flatnonzero(slab.get_tags() == 0)))
    slab.positions[-1] += np.random.default_rng(number).normal(scale=0.1, size=3)
    slab.calc = EMT()
    frames = []
    relaxation = BFGS(slab, logfile=None)
    relaxation.attach(lambda: frames.append(_frozen(slab)), interval=1)
    relaxation.run(fmax=0.01, steps=STEPS)
    energy = frames[-1].get_potential_energy()
    for frame in frames:
        fold = 4 if number % 4 == 3 else 1
        frame.info = {
            "sid": f"r{number}",
            "e_ads": -1.0 - 0.1 * number,
            "e_relaxed": energy,
            "converged": True,
            "cv_fold": fold,
        }
        frame.info["part"] = "held-out" if fold == 4 else "learned"
    return frames


def _frozen(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    forces = atoms.get_forces(apply_constraint=False)
    copy.calc = SinglePointCalculator(copy, energy=atoms.get_potential_energy(), forces=forces)
    return copy


def _labeled(atoms: Atoms, last: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.info["REF_energy"] = last.info["e_ads"]
    return copy


def changes(row: Row, folder: Path) -> Mapping[str, Any]:
    """What a row's recipe becomes on that data."""
    if row.recipe == PAIRS:
        return SHORT
    if row.recipe == "potential.yaml":
        by_fold = {"data.validation_key": "cv_fold", "data.validation_values": ["4"]}
        return SHORT | by_fold | {"data.sources.0.path": str(folder / TRAJECTORY)}
    return SHORT | {
        "data.sources.0.path": str(folder / FIRST),
        "data.sources.0.relaxed": str(folder / LAST),
    }
