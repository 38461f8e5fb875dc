"""Training on molecules: units, energies without forces, rMD17 files, test set."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.io import read, write
from click.testing import CliRunner
from helpers.molecules import (
    KCAL,
    dynamics,
    energies_alone,
    molecule_values,
    molecules,
    rmd17_arrays,
    write_energies,
)
from helpers.structures import systems_of, turned
from helpers.training import cpu_fabric, recipe_values, relaxations, under_ref_keys
from scipy.spatial.transform import Rotation

from geocalc import GeoCalc, load_model
from geocalc.cli.main import main
from geocalc.data.prepare import (
    is_test,
    is_validation,
    locate,
    prepare_store,
    reference_relaxations,
    samples_of_test,
)
from geocalc.data.store import Sample, read_store
from geocalc.errors import InputError, RecipeError
from geocalc.evaluation.single_points import errors_of, predictions
from geocalc.structures.convert import from_atoms
from geocalc.train.recipe import Recipe, parse_recipe, read_recipe
from geocalc.train.register import register_model
from geocalc.train.task import train

UNITS = {"eV": 1.0, "meV": 1e-3, "kcal/mol": KCAL, "kJ/mol": KCAL / 4.184, "Hartree": 27.211386}

RECIPES = Path(__file__).parents[2] / "workflows" / "molecules"


def samples_of(values: dict[str, Any], folder: Path) -> list[Sample]:
    return list(read_store(prepare_store(parse_recipe(values, "test"), folder / "data")))


def write_rmd17(path: Path, n: int = 40) -> Path:
    np.savez(path, **rmd17_arrays(dynamics(n)))
    return path


# units


@pytest.mark.parametrize("unit", UNITS)
def test_labels_in_any_unit_become_ev(unit: str, tmp_path: Path) -> None:
    frames = under_ref_keys(relaxations(4))
    wanted = samples_of(recipe_values(write_frames(tmp_path / "ev.extxyz", frames, 1.0)), tmp_path)
    values = recipe_values(write_frames(tmp_path / "other.extxyz", frames, UNITS[unit]))
    values["data"]["sources"][0] |= {"energy_unit": unit}
    for one, other in zip(samples_of(values, tmp_path), wanted, strict=True):
        assert one.energy == pytest.approx(other.energy, rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(one.forces, other.forces, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(one.positions, other.positions)


def write_frames(path: Path, frames: list, ev: float) -> Path:
    for frame in frames:
        copy = frame.copy()
        copy.info["REF_energy"] /= ev
        copy.arrays["REF_forces"] /= ev
        write(path, copy, append=True)
    return path


def test_energies_that_are_added_are_of_the_same_unit(tmp_path: Path) -> None:
    frames = molecules(20)
    path = write_energies(tmp_path / "m.extxyz", frames, "hof", KCAL)
    with_zero = read(path, ":")
    for atoms in with_zero:
        atoms.info["zero"] = 1.0 / KCAL
    write(path, with_zero)
    values = energies_alone(molecule_values(path), "hof", "kcal/mol")
    values["data"]["sources"][0]["subtract_energy"] = "zero"
    for sample, frame in zip(samples_of(values, tmp_path), frames, strict=True):
        assert sample.energy == pytest.approx(frame.calc.results["energy"] - 1.0, rel=1e-6)


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    values = energies_alone(molecule_values(tmp_path / "m.extxyz"), "hof", "kcal")
    with pytest.raises(
        RecipeError,
        match=(
            r"`data.sources.0.energy_unit`: no unit of energy is called 'kcal'; did you mean"
            r" `kcal/mol`"
        ),
    ):
        parse_recipe(values, "test")


def test_a_file_that_knows_its_unit_takes_no_other(tmp_path: Path) -> None:
    values = molecule_values(write_rmd17(tmp_path / "m.npz"))
    values["data"]["sources"][0]["energy_unit"] = "kcal/mol"
    with pytest.raises(
        InputError,
        match=(r"m.npz is an rMD17 file, whose unit kcal/mol is converted automatically; remove"),
    ):
        samples_of(values, tmp_path)


# energies without forces


@pytest.fixture(scope="module")
def qm7(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as QM7's, in kcal/mol."""
    return write_energies(tmp_path_factory.mktemp("qm7") / "m.extxyz", molecules(60), "hof", KCAL)


def energy_recipe(qm7: Path, *of: str, **training: Any) -> dict[str, Any]:
    return energies_alone(molecule_values(qm7, *of, **training), "hof", "kcal/mol")


@pytest.mark.slow
def test_energies_alone_are_learnt(qm7: Path, tmp_path: Path) -> None:
    values = energy_recipe(
        qm7, "schnet", "none", steps=120, learning_rate=0.01, batch_size=16, evaluate_every=120
    )
    run = train(parse_recipe(values, "test"), tmp_path / "run", tmp_path / "data", cpu_fabric())
    (errors,) = json.loads((run / "metrics.json").read_text())["validation"].values()
    assert {"force_mae", "force_null", "force_cosine"}.isdisjoint(errors)
    samples = read_store(prepare_store(parse_recipe(values, "test"), tmp_path / "data"))
    assert all(np.isnan(sample.forces).all() for sample in samples)
    model = register_model(run, "energies", tmp_path / "models", tmp_path / "data")
    loaded = load_model(model)
    references = loaded.potential.model.references[0]
    plain = [
        abs(float(references[torch.from_numpy(s.numbers)].sum()) - s.energy)
        for s in samples.held_out
    ]
    assert errors["energy_mae"] < 0.7 * np.mean(plain)  # of what the elements tell
    assert "| none | none |" in (model / "README.md").read_text()
    assert GeoCalc(model).implemented_properties == ["energy", "free_energy"]
    path = tmp_path / "new.extxyz"
    atoms = read(qm7, ":6")
    for one in atoms:
        one.info = {"REF_energy": one.info["hof"] * KCAL}
    write(path, atoms)
    told = CliRunner().invoke(
        main, ["evaluate", str(model), str(path), "--out", str(tmp_path / "measured")]
    )
    assert told.exit_code == 0, told.output
    (results,) = json.loads((tmp_path / "measured" / "metrics.json").read_text())[
        "results"
    ].values()
    energies = loaded(from_atoms(atoms, use_tags=False)).energy.tolist()
    wrong = [
        abs(energy - one.info["REF_energy"]) for energy, one in zip(energies, atoms, strict=True)
    ]
    assert results["energy_mae"] == pytest.approx(np.mean(wrong), abs=1e-5)
    assert {"force_mae", "force_null"}.isdisjoint(results)


def test_a_model_with_forces_says_how_to_learn_without(qm7: Path, tmp_path: Path) -> None:
    values = energy_recipe(qm7)
    values["model"]["force_mode"] = "gradient"
    with pytest.raises(
        InputError, match=r"energies only with model.force_mode: none and training.force_weight: 0"
    ):
        samples_of(values, tmp_path)


def test_a_wrong_key_names_what_was_looked_for(qm7: Path, tmp_path: Path) -> None:
    values = energy_recipe(qm7)
    values["data"]["sources"][0]["energy_key"] = "hofs"
    with pytest.raises(
        InputError, match=r"none of the 60 structures of .* has an energy, neither hofs in info"
    ):
        samples_of(values, tmp_path)


def test_energies_cannot_be_compared_with_forces_that_are_not_read(qm7: Path) -> None:
    values = energy_recipe(qm7)
    values["data"]["max_jump"] = 0.3
    with pytest.raises(
        RecipeError, match="max_jump compares energies with forces, which are not read here"
    ):
        parse_recipe(values, "test")


# rMD17, frames, architectures


@pytest.fixture(scope="module")
def rmd17(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rmd17(tmp_path_factory.mktemp("rmd17") / "m_train.npz", 60)


def test_every_frame_is_its_own_group(rmd17: Path, tmp_path: Path) -> None:
    samples = samples_of(molecule_values(rmd17), tmp_path)
    assert [s.group for s in samples] == [f"{rmd17}#{k}" for k in range(60)]
    assert {s.image for s in samples} == {0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "frames"),
    [("faenet", "pca-3d-stochastic"), ("faenet", "rotations-3d"), ("schnet", "none")],
)
def test_dynamics_is_learnt_and_does_not_depend_on_the_pose(
    architecture: str, frames: str, rmd17: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotations and mirror images leave energies as they are and turn forces along, whatever the
    network saw in training.
    """
    # groups are named by the path as the recipe has it, and the split goes by names
    monkeypatch.chdir(rmd17.parent)
    values = molecule_values(
        Path(rmd17.name),
        architecture,
        frames,
        steps=250,
        learning_rate=0.005,
        batch_size=8,
        evaluate_every=250,
    )
    values["data"]["validation_fraction"] = 0.2
    recipe = parse_recipe(values, "test")
    run = train(recipe, tmp_path / "run", tmp_path / "data", cpu_fabric())
    (errors,) = json.loads((run / "metrics.json").read_text())["validation"].values()
    assert errors["force_mae"] < 0.7 * errors["force_null"]
    potential = load_model(
        register_model(run, "m", tmp_path / "models", tmp_path / "data"), dtype="float64"
    ).potential
    here = systems_of(dynamics(1)[0])
    before = potential(here)
    for matrix in (Rotation.random(rng=1).as_matrix(), -Rotation.random(rng=2).as_matrix()):
        after = potential(turned(here, torch.from_numpy(matrix)))
        torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-8)
        torch.testing.assert_close(
            after.forces, before.forces @ torch.from_numpy(matrix), rtol=0, atol=1e-7
        )


# a test set


def test_the_test_set_is_apart(qm7: Path, tmp_path: Path) -> None:
    values = energy_recipe(qm7)
    whole = {s.group: s.validation for s in samples_of(values, tmp_path)}
    values["data"]["test_fraction"] = 0.3
    rest = {s.group: s.validation for s in samples_of(values, tmp_path)}
    tested = {s.group for s in samples_of_test(parse_recipe(values, "test"))}
    assert 8 < len(tested) < 30
    assert tested.isdisjoint(rest)
    assert tested | rest.keys() == whole.keys()
    # who validates does not change
    assert all(whole[name] == validation for name, validation in rest.items())
    assert not any(whole[name] for name in tested)


def test_relaxations_of_the_test_set_are_not_taken(tmp_path: Path) -> None:
    write(tmp_path / "r.extxyz", under_ref_keys(relaxations(12)))
    values = recipe_values(tmp_path / "r.extxyz")
    values["data"]["test_fraction"] = 0.4
    recipe = Recipe.parse(values, "test")
    tested = {s.group for s in samples_of_test(recipe)}
    sides = [
        {r.first.group for r in reference_relaxations(recipe.data, 0, side)}
        for side in (True, False, None)
    ]
    assert tested
    assert sides[0] | sides[1] | tested == sides[2]
    assert len(sides[0]) + len(sides[1]) + len(tested) == 12


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"test_fraction": 0.8}, "leave nothing to train on"),
        (
            {"test_fraction": 0.1, "validation_key": "fold"},
            "leave the test out with data.sources.exclude_key",
        ),
    ],
)
def test_test_sets_that_cannot_be(data: dict, message: str, qm7: Path) -> None:
    values = energy_recipe(qm7)
    values["data"] |= data
    with pytest.raises(RecipeError, match=message):
        parse_recipe(values, "test")


def test_a_recipe_without_a_test_set_says_so(qm7: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds out no structure for the test; set data.test_fraction"
    ):
        samples_of_test(parse_recipe(energy_recipe(qm7), "test"))


def test_a_model_without_forces_has_no_errors_of_them(rmd17: Path, tmp_path: Path) -> None:
    samples = samples_of(molecule_values(rmd17), tmp_path)[:5]
    values = molecule_values(rmd17, force_weight=0.0)
    values["model"]["force_mode"] = "none"
    recipe = parse_recipe(values | {"training": values["training"] | {"steps": 1}}, "test")
    run = train(recipe, tmp_path / "run", tmp_path / "data", cpu_fabric())
    potential = load_model(
        register_model(run, "m", tmp_path / "models", tmp_path / "data")
    ).potential
    errors = errors_of(predictions(potential, samples))
    assert np.isnan(errors.force_mae)
    assert errors.energy_mae >= 0


# the recipes of the workflow


@pytest.mark.data
@pytest.mark.skipif(
    "GEOCALC_DATA" not in os.environ,
    reason="GEOCALC_DATA, the folder of published data sets, is not set",
)
@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("qm7-faenet", "qm7-schnet"), (5500, 500, 1101)),
        (("rmd17-ethanol-faenet", "rmd17-ethanol-schnet"), (950, 50, 0)),
    ],
)
def test_recipes_of_molecules_are_split_as_they_say(
    names: tuple[str, str], sizes: tuple[int, int, int]
) -> None:
    one, other = (read_recipe(RECIPES / f"{name}.yaml") for name in names)
    assert one.data == other.data
    path, parts = one.data.sources[0].path, [0, 0, 0]
    if path.suffix == ".npz":
        groups = [f"{path}#{k}" for k in range(1000)]
    else:
        groups = [
            str(int(name))
            for name in re.findall(
                r" name=(\d+)", gzip.decompress(locate(path).read_bytes()).decode()
            )
        ]
    for group in groups:
        parts[1 if is_validation(group, one.data) else 2 if is_test(group, one.data) else 0] += 1
    assert tuple(parts) == sizes
