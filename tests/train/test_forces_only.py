"""Sources whose energies are relative to nothing known teach forces alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from helpers.training import (
    assert_equal_to_rounding,
    cpu_fabric,
    recipe_values,
    relaxations,
    weights_after,
)

from geocalc import load_model
from geocalc.errors import RecipeError
from geocalc.train.recipe import Recipe, parse_recipe
from geocalc.train.register import register_model
from geocalc.train.run import start_training
from geocalc.train.task import load_samples, train


def shifted(frames: list[Atoms], energy: float) -> list[Atoms]:
    copies = []
    for number, frame in enumerate(frames):
        copy = frame.copy()
        wrong = frame.calc.results["energy"] + energy * (number // 3 % 2)  # by relaxation
        copy.calc = SinglePointCalculator(copy, energy=wrong, forces=frame.calc.results["forces"])
        copies.append(copy)
    return copies


def values_of(folder: Path, energy: float = 0.0, **training: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    write(folder / "known.traj", relaxations(12))
    write(folder / "unknown.traj", shifted(relaxations(12), energy))
    values = recipe_values(folder / "known.traj", **training)
    values["data"]["sources"].append({"path": str(folder / "unknown.traj"), "energies": False})
    return values


def parsed(folder: Path, energy: float = 0.0, **training: Any) -> Recipe:
    return parse_recipe(values_of(folder, energy, batch_size=8, **training), "test")


@pytest.mark.slow
def test_such_energies_change_nothing(tmp_path: Path) -> None:
    for accumulate in (1, 2):
        (one, losses), (other, same) = (
            weights_after(
                parsed(tmp_path / name, energy, accumulate=accumulate), tmp_path / name / "data", 4
            )
            for name, energy in (("plain", 0.0), ("shifted", 1000.0))
        )
        assert losses == same
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_their_forces_are_learnt(tmp_path: Path) -> None:
    with_them = parsed(tmp_path, 1000.0)
    without = parse_recipe(
        {**with_them.model_dump(mode="json"), "data": with_them.data.model_dump(mode="json")},
        "test",
    )
    assert without == with_them  # survives being written down
    alone = with_them.model_copy(
        update={"data": with_them.data.model_copy(update={"sources": with_them.data.sources[:1]})}
    )
    told = [weights_after(recipe, tmp_path / "data", 2)[0] for recipe in (with_them, alone)]
    assert any(not torch.equal(value, told[1][name]) for name, value in told[0].items())


@pytest.mark.slow
def test_parts_of_a_batch_learn_what_the_whole_does(tmp_path: Path) -> None:
    whole, parts = (parsed(tmp_path, 1000.0, accumulate=accumulate) for accumulate in (1, 3))
    assert_equal_to_rounding(
        *(weights_after(recipe, tmp_path / "data", 3)[0] for recipe in (whole, parts))
    )


@pytest.mark.slow
def test_their_energy_errors_are_not_told(tmp_path: Path) -> None:
    run = train(parsed(tmp_path, 1000.0), tmp_path / "run", tmp_path / "data", cpu_fabric())
    errors = json.loads((run / "metrics.json").read_text())["validation"]
    known, unknown = (errors[str(tmp_path / name)] for name in ("known.traj", "unknown.traj"))
    assert known["energy_mae"] < 100
    assert not {"energy_mae", "energy_rmse", "within_0p02"} & set(unknown)
    assert unknown["force_mae"] == pytest.approx(known["force_mae"], rel=1e-6)
    card = (register_model(run, "known", tmp_path, tmp_path / "data") / "README.md").read_text()
    assert "unknown.traj | 15 | forces only" in card


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:there are :geocalc.errors.DataWarning")
def test_a_model_is_tuned_on_them_and_keeps_its_zero(tmp_path: Path) -> None:
    run = train(parsed(tmp_path, 1000.0), tmp_path / "run", tmp_path / "data", cpu_fabric())
    trained = register_model(run, "known", tmp_path, tmp_path / "data")
    start = {"model": str(trained), "hash": load_model(trained, device="cpu").hash}
    references = []
    for energy in (0.0, 1000.0):
        values = values_of(tmp_path / f"{energy}", energy) | {"start": start}
        recipe = parse_recipe(values, "test")
        samples = load_samples(recipe, tmp_path / f"{energy}" / "data", cpu_fabric())
        references.append(start_training(recipe, samples.training).model.references)
    assert torch.equal(*references)


@pytest.mark.slow
def test_a_recipe_of_forces_alone_is_refused(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    values["data"]["sources"][0].update(energies=False)
    with pytest.raises(RecipeError, match="no source has energies of the level ''"):
        parse_recipe(values, "test")
