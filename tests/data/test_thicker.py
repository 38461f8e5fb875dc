"""Slabs with more layers: the ones that a builder makes, with the labels that are still known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, hcp0001, surface
from ase.constraints import FixAtoms
from ase.geometry import find_mic
from helpers.training import (
    assert_equal_to_rounding,
    labeled,
    recipe_values,
    relaxation,
    weights_after,
    write_data,
)

from geocalc.core.systems import Prediction
from geocalc.data.augment import add_layers, stacking
from geocalc.data.collate import collate_samples
from geocalc.data.prepare import samples_of_file
from geocalc.data.store import Sample
from geocalc.errors import RecipeError
from geocalc.train.loss import loss
from geocalc.train.recipe import Recipe, parse_recipe
from geocalc.train.settings import Training


def sample_of(atoms: Atoms, folder: Path, n_fixed: int) -> Sample:
    """The structure, rattled where it is free, with its lowest atoms fixed."""
    atoms = atoms.copy()
    order = np.argsort(atoms.positions[:, 2], kind="stable")
    atoms.set_constraint(FixAtoms(order[:n_fixed]))
    free = order[n_fixed:]
    atoms.positions[free] += np.random.default_rng(0).normal(0, 0.05, (len(free), 3))
    (sample,) = samples_of_file(
        write_data(folder / "one.traj", [labeled(atoms, sid="one")]), use_tags=False
    )
    return sample


def with_more(sample: Sample, n_layers: int) -> Sample:
    """The sample with so many layers of four atoms more."""
    drawn = (add_layers([sample], 1.0, [np.random.default_rng(seed)])[0] for seed in range(40))
    return next(
        found for found in drawn if len(found.numbers) == len(sample.numbers) + 4 * n_layers
    )


def assert_same_structure(found: Sample, wanted: Atoms, apart: float) -> None:
    """Equal but for order, a shift and lattice vectors."""
    shift = (
        found.positions[np.argmin(found.positions[:, 2])]
        - wanted.positions[np.argmin(wanted.positions[:, 2])]
    )
    candidates = wanted.positions - wanted.positions[np.argmin(wanted.positions[:, 2])]
    lowest = np.flatnonzero(candidates[:, 2] < 0.3)
    for start in lowest:
        moved = (
            wanted.positions
            - wanted.positions[start]
            + wanted.positions[np.argmin(wanted.positions[:, 2])]
            + shift
        )
        gaps = np.array(
            [find_mic(moved - p, found.cell, [True, True, False])[1] for p in found.positions]
        )
        near = gaps < apart
        near &= found.numbers[:, None] == wanted.numbers[None]
        if near.any(0).all() and near.any(1).all():
            return
    raise AssertionError("no shift brings them together")


@pytest.mark.parametrize("n_layers", [1, 2])
def test_they_are_the_slabs_that_a_builder_makes(n_layers: int, tmp_path: Path) -> None:
    sample = sample_of(fcc111("Cu", (2, 2, 3), vacuum=12.0), tmp_path, 8)
    found = with_more(sample, n_layers)
    assert_same_structure(found, fcc111("Cu", (2, 2, 3 + n_layers), vacuum=12.0), 0.3)


def test_the_order_of_an_alloy_goes_on(tmp_path: Path) -> None:
    crystal = bulk("Cu", cubic=True)
    crystal.symbols[0] = "Au"
    # half a layer below and above
    whole = surface(crystal, (1, 1, 1), 6, vacuum=12.0, periodic=True)
    heights = whole.positions[:, 2] - whole.positions[:, 2].min()
    thick = whole[(heights > 1.0) & (heights < 9.5)]
    thin = thick[thick.positions[:, 2] > thick.positions[:, 2].min() + 1.0]
    assert (len(thick), len(thin)) == (16, 12)
    sample = sample_of(thin, tmp_path, 8)
    assert_same_structure(with_more(sample, 1), thick, 0.3)


def test_what_is_known_stays_and_nothing_else(tmp_path: Path) -> None:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=12.0)
    add_adsorbate(atoms, "O", 1.2, "fcc")
    sample = sample_of(atoms, tmp_path, 8)
    found, n = with_more(sample, 2), len(sample.numbers)
    assert found.energy == sample.energy
    np.testing.assert_array_equal(found.positions[:n], sample.positions)
    free = ~sample.fixed.all(1)
    np.testing.assert_array_equal(found.forces[:n][free], sample.forces[free])
    assert np.isnan(found.forces[:n][~free]).all()
    assert np.isnan(found.forces[n:]).all()
    assert found.fixed[n:].all()
    assert (found.tags[n:] == 0).all()


def test_the_share_is_the_one_asked_for(tmp_path: Path) -> None:
    sample = sample_of(fcc111("Cu", (2, 2, 3), vacuum=12.0), tmp_path, 8)
    rngs = [np.random.default_rng(k) for k in range(400)]
    seen = [len(one.numbers) for one in add_layers([sample] * 400, 0.4, rngs)]
    assert np.mean(np.array(seen) > 12) == pytest.approx(0.4, abs=0.07)
    assert set(seen) == {12, 16, 20}


def no_slabs() -> dict[str, tuple[Atoms, int]]:
    """Structures, and how many of their atoms are held."""
    return {
        "hcp": (hcp0001("Ru", (2, 2, 4), vacuum=12.0), 8),
        "one layer held": (fcc111("Cu", (2, 2, 3), vacuum=12.0), 4),
        "nothing held": (fcc111("Cu", (2, 2, 3), vacuum=12.0), 0),
        "two layers": (fcc111("Cu", (2, 2, 2), vacuum=12.0), 8),
        "bulk": (bulk("Cu", cubic=True) * (2, 2, 2), 8),
    }


@pytest.mark.parametrize("name", no_slabs())
def test_others_stay_as_they_are(name: str, tmp_path: Path) -> None:
    atoms, n_fixed = no_slabs()[name]
    if name == "hcp":
        atoms.symbols[:] = "Cu"  # EMT labels it
    sample = sample_of(atoms, tmp_path, n_fixed)
    assert stacking(sample) is None
    assert add_layers([sample], 1.0, [np.random.default_rng(0)])[0] is sample


def test_a_slab_without_room_stays_as_it_is(tmp_path: Path) -> None:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    atoms.pbc = True
    sample = sample_of(atoms, tmp_path, 8)
    assert stacking(sample) is not None
    assert add_layers([sample], 1.0, [np.random.default_rng(0)])[0] is sample


def test_unknown_forces_do_not_count(tmp_path: Path) -> None:
    sample = sample_of(fcc111("Cu", (2, 2, 3), vacuum=12.0), tmp_path, 8)
    systems, labels = collate_samples([sample])
    forces = torch.randn(
        12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    told = Prediction(energy=labels.energy + 1.0, forces=forces, atom_energies=None)
    unknown = type(labels)(
        energy=labels.energy,
        forces=torch.where(systems.fixed.all(1, keepdim=True), torch.nan, labels.forces),
        displacement=labels.displacement,
    )
    masked = loss(told, None, systems, unknown, Training(steps=1), 1.0).total
    without = loss(
        told, None, systems, labels, Training(steps=1, fixed_force_weight=0.0), 1.0
    ).total
    assert float(masked.detach()) == pytest.approx(float(without.detach()), rel=1e-12)
    (slope,) = torch.autograd.grad(masked, forces)
    assert slope.isfinite().all()
    assert (slope[systems.fixed.all(1)] == 0).all()


def recipe_of(folder: Path, thicker: float = 0.5, **training: Any) -> Recipe:
    frames = [frame for k in range(8) for frame in relaxation(f"r{k}", seed=k)]
    thick = fcc111("Cu", (2, 2, 3), vacuum=12.0)
    thick.set_tags([int(tag == 1) for tag in thick.get_tags()])
    thick.set_constraint(FixAtoms(range(8)))
    frames += [labeled(thick, sid=f"s{k}") for k in range(8)]
    values = recipe_values(
        write_data(folder / "d.traj", frames),
        add_layers_probability=thicker,
        batch_size=8,
        **training,
    )
    values["about"]["energy_kind"] = "adsorption"
    return parse_recipe(values, "test")


@pytest.mark.slow
def test_parts_of_a_batch_learn_what_the_whole_does(tmp_path: Path) -> None:
    weights = [
        weights_after(recipe_of(tmp_path, accumulate=n), tmp_path / "data", 3)[0] for n in (1, 3)
    ]
    assert_equal_to_rounding(*weights)
    plain, _ = weights_after(recipe_of(tmp_path, thicker=0.0), tmp_path / "data", 3)
    assert any(not torch.equal(value, plain[name]) for name, value in weights[0].items())


def test_total_energies_are_refused(tmp_path: Path) -> None:
    values = recipe_values(
        write_data(tmp_path / "d.traj", relaxation("r")), add_layers_probability=0.5
    )
    with pytest.raises(
        RecipeError, match="since other energies change with every layer; set it to 0"
    ):
        parse_recipe(values, "test")
