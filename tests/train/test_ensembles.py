"""Several runs of one recipe as one model: the mean of its members, and their spread."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.structures import adslab, rattled
from helpers.training import cpu_fabric, make_recipe, recipe_values, relaxations, write_data

import geocalc
from geocalc import GeoCalc, from_atoms, load_model
from geocalc.cli.main import main
from geocalc.core.energies import EnergyKind
from geocalc.core.systems import concatenate
from geocalc.errors import EnergyKindError, InputError
from geocalc.testing import assert_forces_are_gradient
from geocalc.train.ensembles import check_members
from geocalc.train.recipe import parse_recipe
from geocalc.train.register import register_model
from geocalc.train.task import train

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("ensemble")
    data = write_data(folder / "d.traj", relaxations(10))
    made = []
    for seed in SEEDS:
        recipe = make_recipe(data, steps=20, learning_rate=0.01, seed=seed)
        made.append(train(recipe, folder / f"run-{seed}", folder / "data", cpu_fabric()))
    return made


@pytest.fixture(scope="module")
def models(runs: list[Path]) -> list[Path]:
    folder, data = runs[0].parent / "models", runs[0].parent / "data"
    return [register_model(run, f"one-{k}", folder, data) for k, run in enumerate(runs)] + [
        register_model(runs, "all", folder, data)
    ]


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_its_members_and_says_how_far_they_differ(
    models: list[Path],
) -> None:
    systems = concatenate(
        [from_atoms(rattled(adslab("O", "fcc", size=(2, 2, 2)), 0.1, seed)) for seed in (1, 2)]
    )
    *alone, together = [
        load_model(model, dtype="float64", device="cpu")(systems) for model in models
    ]
    energies = np.array([one.energy.numpy() for one in alone])
    np.testing.assert_allclose(together.energy, energies.mean(0), atol=1e-9)
    np.testing.assert_allclose(together.energy_std, energies.std(0, ddof=1), atol=1e-9)
    forces = np.mean([one.forces.numpy() for one in alone], axis=0)  # type: ignore[union-attr]
    np.testing.assert_allclose(together.forces, forces, atol=1e-9)
    assert (energies.std(0) > 1e-3).all()


@pytest.mark.slow
def test_its_forces_are_the_gradient_of_its_energy(models: list[Path]) -> None:
    systems = from_atoms(rattled(adslab("O", "fcc", size=(2, 2, 2)), 0.1, 3))
    assert_forces_are_gradient(load_model(models[-1], dtype="float64", device="cpu"), systems)


@pytest.mark.slow
def test_records_and_calculators_carry_the_spread(models: list[Path]) -> None:
    atoms = rattled(adslab("O", "fcc", size=(2, 2, 2)), 0.1, 4)
    record = geocalc.predict(atoms, str(models[-1]))[0].record
    calc = GeoCalc(models[-1])
    calc.get_potential_energy(atoms)
    assert record.energy_std == pytest.approx(calc.energy_std, rel=1e-4)
    assert record.energy_std is not None
    assert record.energy_std > 1e-3


@pytest.mark.slow
def test_the_command_and_the_card(runs: list[Path], tmp_path: Path) -> None:
    words = ["register", *map(str, runs), "--name", "many", "--folder", str(tmp_path)]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 0, told.output
    assert load_model(tmp_path / "many").card.members == len(SEEDS)
    measured = json.loads((tmp_path / "many" / "metrics.json").read_text())
    assert measured["members"] == len(SEEDS)
    assert len(measured["validation"]) == 1


@pytest.mark.slow
def test_runs_that_do_not_belong_together_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = make_recipe(write_data(tmp_path / "other.traj", relaxations(10)), steps=2)
    strange = train(other, tmp_path / "strange", tmp_path / "data", cpu_fabric())
    with pytest.raises(
        InputError,
        match=(
            r"strange and .*run-0 differ in `data` of their recipes; the runs of one"
            r" model differ only in seeds"
        ),
    ):
        register_model([runs[0], strange], "mixed", tmp_path / "models", runs[0].parent / "data")
    assert not (tmp_path / "models").exists()


def test_runs_of_different_kinds_of_energy_are_not_averaged(tmp_path: Path) -> None:
    one = make_recipe(tmp_path / "d.traj")
    about = one.about.model_copy(update={"energy_kind": EnergyKind.ADSORPTION})
    other = one.model_copy(update={"about": about})
    with pytest.raises(EnergyKindError, match=r"cannot be averaged: they differ in kind"):
        check_members([one, other])


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs, each of which holds out what the other has learned from; energies of the halves are
    3 eV an oxygen apart.
    """
    folder = tmp_path_factory.mktemp("crossed")
    frames = relaxations(10)
    for frame in frames:
        odd = int(frame.info["sid"][1:]) % 2
        frame.info["part"] = "odd" if odd else "even"
        frame.calc.results["energy"] += 3.0 * odd
    data, made = write_data(folder / "d.traj", frames), []
    for part in ("odd", "even"):
        values = recipe_values(data, steps=20, learning_rate=0.01)
        values["data"] |= {"validation_key": "part", "validation_values": [part]}
        recipe = parse_recipe(values, "test")
        made.append(train(recipe, folder / part, folder / "data", cpu_fabric()))
    return made


@pytest.mark.slow
def test_members_with_units_of_their_own_are_averaged_in_electronvolts(crossed: list[Path]) -> None:
    folder, data = crossed[0].parent / "models", crossed[0].parent / "data"
    models = [register_model(run, run.name, folder, data) for run in crossed] + [
        register_model(crossed, "both", folder, data)
    ]
    systems = concatenate(
        [from_atoms(rattled(adslab("O", "fcc", size=(2, 2, 2)), 0.1, seed)) for seed in (1, 2)]
    )
    loaded = [load_model(model, dtype="float64", device="cpu") for model in models]
    assert loaded[0].card.energy_scale != loaded[1].card.energy_scale
    *alone, together = [model(systems) for model in loaded]
    energies = np.array([one.energy.numpy() for one in alone])
    assert (np.abs(energies[0] - energies[1]) > 1.0).all()
    # offsets are kept in float32
    np.testing.assert_allclose(together.energy, energies.mean(0), atol=1e-4)
    np.testing.assert_allclose(together.energy_std, energies.std(0, ddof=1), atol=1e-4)
    shares = np.mean([one.atom_energies.numpy() for one in alone], axis=0)
    np.testing.assert_allclose(together.atom_energies, shares, atol=1e-4)
    assert_forces_are_gradient(loaded[-1], systems)


@pytest.mark.slow
def test_what_is_said_of_it_was_measured_by_members_that_had_not_seen_it(
    crossed: list[Path],
) -> None:
    folder = crossed[0].parent / "measured"
    model = register_model(crossed, "both", folder, crossed[0].parent / "data")
    measured = json.loads((model / "metrics.json").read_text())
    assert measured["cross_validated"]
    (errors,) = measured["validation"].values()
    own = [json.loads((run / "metrics.json").read_text())["validation"] for run in crossed]
    assert errors["n"] == sum(one["n"] for (one,) in (part.values() for part in own)) == 30
    assert errors["energy_mae"] == pytest.approx(
        np.mean([one["energy_mae"] for (one,) in (p.values() for p in own)]), rel=1e-6
    )
    # of members that have seen it the error would be near half of 3 eV
    assert errors["energy_mae"] > 1.0
