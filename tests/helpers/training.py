"""Labeled relaxations and recipes small enough to train on in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from lightning_fabric import Fabric

from geocalc.data.prepare import prepare_store
from geocalc.data.store import Samples, read_store
from geocalc.train.ema import WeightAverage
from geocalc.train.loader import batch_loader
from geocalc.train.recipe import Recipe
from geocalc.train.run import Run, start_training
from geocalc.train.steps import update
from helpers.structures import adslab, rattled

TINY = {
    "cutoff": 3.5,
    "hidden_channels": 24,
    "num_filters": 8,
    "num_interactions": 1,
    "num_gaussians": 6,
    "tag_hidden_channels": 2,
    "pg_hidden_channels": 2,
    "force_decoder_channels": 8,
}


def labeled(atoms: Atoms, **info: Any) -> Atoms:
    """A copy with energy and raw forces of EMT stored in a calculator."""
    copy = atoms.copy()
    copy.calc = EMT()
    energy, forces = copy.get_potential_energy(), copy.get_forces(apply_constraint=False)
    copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces)
    copy.info = info  # what ASE's builders leave there no file can hold
    return copy


def relaxation(name: str, n_frames: int = 3, seed: int = 0) -> list[Atoms]:
    """Frames of something like a relaxation of O on a Cu slab whose lower layer is fixed: ever
    smaller displacements.
    """
    return deepcopy(_relaxation(name, n_frames, seed))


@cache
def _relaxation(name: str, n_frames: int, seed: int) -> list[Atoms]:
    """Frames of `relaxation`, computed once in a process."""
    slab = adslab("O", "fcc", size=(2, 2, 2))
    slab.set_constraint(FixAtoms(np.flatnonzero(slab.get_tags() == 0)))
    sizes = np.linspace(0.15, 0.02, n_frames)
    return [labeled(rattled(slab, size, seed), sid=name, frame=k) for k, size in enumerate(sizes)]


def relaxations(n: int = 10, n_frames: int = 3) -> list[Atoms]:
    """Frames of `n` relaxations named r0, r1, ..., one after the other."""
    return [frame for k in range(n) for frame in relaxation(f"r{k}", n_frames, seed=k)]


def under_ref_keys(frames: Sequence[Atoms]) -> list[Atoms]:
    """Copies with their labels under REF_energy and REF_forces and no calculator."""
    copies = []
    for frame in frames:
        copy = frame.copy()
        copy.info["REF_energy"] = frame.calc.results["energy"]
        copy.set_array("REF_forces", frame.calc.results["forces"])
        copies.append(copy)
    return copies


def write_data(path: Path, frames: Sequence[Atoms] | None = None) -> Path:
    """Labeled frames in a file; ten relaxations unless others are given."""
    write(path, relaxations() if frames is None else list(frames))
    return path


def recipe_values(data: Path, **training: Any) -> dict[str, Any]:
    """Values of a recipe: 12 steps of a tiny network, changed by `training`."""
    return {
        "name": "tiny",
        "about": {
            "energy_kind": "total",
            "level_of_theory": "EMT",
            "reference_text": "isolated atoms",
            "domain": "tests",
            "data": ["made by the tests"],
        },
        "model": {"architecture": "faenet", "settings": dict(TINY)},
        "data": {
            "sources": [{"path": str(data)}],
            "validation_fraction": 0.3,
            "images_per_group": 3,
            "max_force": 100.0,
        },
        "training": {
            "steps": 12,
            "batch_size": 4,
            "log_every": 1,
            "evaluate_every": 6,
            "checkpoint_every": 3,
            "ema_decay": 0.9,
            **training,
        },
    }


def make_recipe(data: Path, **training: Any) -> Recipe:
    """The recipe of `recipe_values`, parsed."""
    return Recipe.parse(recipe_values(data, **training), "test")


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    """A recipe file."""
    path.write_text(yaml.safe_dump(values))
    return path


def cpu_fabric() -> Fabric:
    """One process on the CPU."""
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def in_double(recipe: Recipe, folder: Path) -> tuple[Run, Samples]:
    """A run in float64 before its first step, in which the order of sums is all but forgotten, and
    its samples.
    """
    samples = read_store(prepare_store(recipe, folder))
    run = start_training(recipe, samples.training)
    run.model.network.double()
    run.average = WeightAverage(run.model.network, recipe.training.ema_decay)
    return run, samples


def weights_after(
    recipe: Recipe, folder: Path, steps: int
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights of a run in float64 after some steps, and the loss of each."""
    run, samples = in_double(recipe, folder)
    loader = batch_loader(samples, recipe, run.model, cpu_fabric())
    losses = [
        float(update(run, loader.batch(step), recipe, step, cpu_fabric()).total)
        for step in range(steps)
    ]
    return dict(run.model.network.state_dict()), losses


def assert_equal_to_rounding(
    one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]
) -> None:
    """Weights agree to 1e-9: sums in another order move gradients by 1e-16 of their size, and
    AdamW's quotients make 1e-12 of it.
    """
    for name, value in one.items():
        torch.testing.assert_close(
            other[name], value, rtol=0.0, atol=1e-9, msg=lambda told, name=name: f"{name}: {told}"
        )
