"""`geocalc.relax` and `geocalc.predict` on ASE structures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from ase.constraints import FixAtoms
from helpers.models import write_model
from helpers.structures import adslab, rattled

import geocalc
from geocalc import GeoCalc
from geocalc.core.systems import Systems
from geocalc.errors import InputError, ModelNotFoundError, RecipeError
from geocalc.structures.tags import TagsConverted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"))


def slab(adsorbate: str = "O") -> Atoms:
    atoms = rattled(adslab(adsorbate, "fcc", size=(2, 2, 2)))
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 0))
    atoms.info = {"sid": f"slab-{adsorbate}"}
    return atoms


def test_predicting_is_what_the_calculator_says(folder: Path) -> None:
    structures = [slab("O"), slab("CO")]
    results = geocalc.predict(structures, folder, dtype="float64")
    for atoms, result in zip(structures, results, strict=True):
        atoms.calc = GeoCalc(folder, dtype="float64")
        assert result.record.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        assert result.atoms.get_potential_energy() == result.record.energy
        np.testing.assert_allclose(
            result.atoms.get_forces(), atoms.get_forces(), rtol=0, atol=1e-10
        )
        assert result.record.n_steps == 0
        assert result.record.sid == atoms.info["sid"]
        assert result.record.energy_kind == "adsorption"


def test_relaxing_lowers_the_energy_and_leaves_the_input_alone(folder: Path) -> None:
    atoms = slab()
    before = atoms.copy()
    (start,) = geocalc.predict(atoms, folder, dtype="float64")
    (result,) = geocalc.relax(atoms, folder, dtype="float64", steps=5, fmax=1e-4)
    assert result.record.energy < start.record.energy - 1e-3
    assert result.record.n_steps == 5
    assert not result.record.converged
    assert np.array_equal(atoms.positions, before.positions)
    assert atoms.calc is None
    held = atoms.get_tags() == 0
    assert np.array_equal(result.atoms.positions[held], before.positions[held])
    assert len(result.atoms.constraints) == 1
    assert result.atoms.info == before.info


def test_a_structure_that_fails_keeps_its_place(folder: Path) -> None:
    foreign = slab()
    foreign.numbers[0] = 79
    results = geocalc.predict((atoms for atoms in [slab(), foreign, slab("CO")]), folder)
    assert [result.record.error is None for result in results] == [True, False, True]
    assert "contains Au, which this model was not trained on" in str(results[1].record.error)
    assert results[1].record.energy is None
    assert results[1].atoms.calc is None


def test_structures_are_taken_as_they_are_needed(folder: Path) -> None:
    taken: list[int] = []

    def stream() -> Iterator[Atoms]:
        for k in range(1000):
            taken.append(k)
            yield slab()

    results = geocalc.iter_relax(stream(), folder, steps=0)
    assert taken == []
    assert [next(results).number for _ in range(3)] == [0, 1, 2]
    assert len(taken) < 200  # as many as are computed together
    del results
    taken.clear()
    results = geocalc.iter_relax(stream(), folder, steps=0, reproducible=True)
    assert [next(results).number for _ in range(3)] == [0, 1, 2]
    assert taken == [0, 1, 2]
    del results


@pytest.mark.slow
def test_workers_give_the_same_results_in_the_same_order(folder: Path) -> None:
    structures = [slab("O"), slab("CO"), slab("C"), slab("H")]
    alone, shared = (
        geocalc.relax(
            iter(structures),
            folder,
            dtype="float64",
            steps=3,
            fmax=1e-4,
            workers=n,
            reproducible=True,
        )
        for n in (1, 2)
    )
    for one, other in zip(alone, shared, strict=True):
        assert replace(one.record, wall_s=0.0) == replace(other.record, wall_s=0.0)
        assert np.array_equal(one.atoms.positions, other.atoms.positions)
        assert np.array_equal(one.atoms.get_forces(), other.atoms.get_forces())
    assert [one.number for one in shared] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_structures_computed_together_end_as_those_computed_alone(
    folder: Path, workers: int
) -> None:
    structures = [slab(name) for name in ("O", "CO", "C", "H", "O", "H")]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.03, seed=k)
    together, alone = (
        geocalc.relax(structures, folder, steps=8, workers=n, reproducible=r)
        for n, r in ((workers, False), (1, True))
    )
    for one, other in zip(together, alone, strict=True):
        assert one.record.status == other.record.status
        assert abs(one.record.energy - other.record.energy) < 1e-5
        assert np.abs(one.atoms.positions - other.atoms.positions).max() < 1e-4


def test_a_wrong_model_or_setting_is_an_error_at_once(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        geocalc.relax(slab(), "no-such-model")
    with pytest.raises(
        InputError, match=r"no optimizer .simplex.; known are bfgs, conjugate-gradient"
    ):
        geocalc.relax(slab(), folder, optimizer="simplex")
    with pytest.raises(InputError, match="no frame policy"):
        geocalc.predict(slab(), folder, frames="latice")
    with pytest.raises(RecipeError, match="`workers` is 0"):
        geocalc.relax(slab(), folder, workers=0)


def apart(systems: Systems) -> torch.Tensor:
    """A bad proposal: every atom a little farther from the origin of its axes."""
    return 0.02 * systems.positions


def test_a_warm_start_is_asked_once_and_taken_back_where_it_is_worse(folder: Path) -> None:
    (start,) = geocalc.predict(slab(), folder)
    (ended,) = geocalc.relax(slab(), folder, steps=4, fmax=1e-3, warm_start=apart)
    (without,) = geocalc.relax(slab(), folder, steps=3, fmax=1e-3)
    worse = slab()
    worse.positions += apart(geocalc.from_atoms(slab(), use_tags=False)).numpy()
    (there,) = geocalc.predict(worse, folder)
    refused = there.record.energy > start.record.energy or there.record.fmax > start.record.fmax
    assert refused
    assert ended.record.energy == without.record.energy
    assert ended.record.n_evaluations == without.record.n_evaluations + 1


def test_conversions_of_tags_are_told_once_for_a_run(tmp_path) -> None:
    model = str(write_model(tmp_path / "models"))
    slabs = [fcc111("Cu", (2, 2, n), vacuum=8.0) for n in (2, 2, 3, 4, 5, 6)]
    with pytest.warns(TagsConverted) as caught:
        results = list(geocalc.iter_relax(slabs, model, fmax=1e3, frames="single"))
    assert all(result.record.converged for result in results)
    (warning,) = [one for one in caught if one.category is TagsConverted]
    assert str(warning.message).startswith("Cu8 and 1 more: tags were layer numbers")
    assert str(warning.message).endswith("and 2 other kinds of conversion")
