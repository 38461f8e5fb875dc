"""Relaxed energies and geometries from unrelaxed structures: pairs, noise, training, and the model
that comes of it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from click.testing import CliRunner
from helpers.models import write_model
from helpers.structures import adslab, rattled
from helpers.training import (
    TINY,
    assert_equal_to_rounding,
    cpu_fabric,
    recipe_values,
    weights_after,
    write_recipe,
)

import geocalc
from geocalc import GeoCalc, load_model
from geocalc.cli.main import main
from geocalc.data.augment import add_noise
from geocalc.data.pairs import relaxed_pairs
from geocalc.data.prepare import prepare_store
from geocalc.data.settings import DataSource, Noise
from geocalc.data.store import Sample, read_store
from geocalc.errors import InputError, RecipeError
from geocalc.potentials.card import Task
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.register import register_model
from geocalc.train.run import build_model
from geocalc.train.task import train


def pair(number: int) -> tuple[Atoms, Atoms]:
    """An unrelaxed slab with O or CO on it, and what it relaxes to: 0.1 Angstrom up, at an energy
    that the adsorbate decides.
    """
    name = ("O", "CO")[number % 2]
    start = rattled(adslab(name, "fcc", size=(2, 2, 3)), 0.03, number)
    start.set_constraint(FixAtoms(np.flatnonzero(start.get_tags() == 0)))
    end = start.copy()
    end.positions[start.get_tags() > 0] += (0.0, 0.0, 0.1)
    end.wrap()
    end.calc = SinglePointCalculator(end, energy={"O": -1.0, "CO": -2.0}[name] + 0.01 * number)
    for one in (start, end):
        one.info = {"sid": f"p{number}", "fold": number % 3}
    return start, end


def write_pairs(folder: Path, n: int = 12) -> tuple[Path, Path]:
    pairs = [pair(k) for k in range(n)]
    files = folder / "init.extxyz", folder / "relaxed.extxyz"
    for k, file in enumerate(files):
        write(file, [one[k] for one in pairs])
    return files


def values_of(folder: Path, **training: object) -> dict:
    init, relaxed = write_pairs(folder)
    defaults = {
        "force_weight": 0.0,
        "displacement_weight": 0.5,
        "noise": {"probability": 0.5, "sigma": 0.05},
        "frames": "rotations-2d",
    }
    values = recipe_values(init, **{**defaults, **training})
    values["task"] = "is2re"
    values["data"]["sources"][0]["relaxed"] = str(relaxed)
    values["data"] |= {"validation_key": "fold", "validation_values": ["2"]}
    values["fitted_references"] = {"elements": ["C", "O"]}
    values["model"] |= {
        "settings": {**TINY, "direct_forces": True},
        "force_mode": "none",
        "drop_subsurface": True,
        "adsorbate_edges": True,
    }
    return values


def samples_of(folder: Path) -> list[Sample]:
    return list(read_store(prepare_store(Recipe.parse(values_of(folder), "test"), folder / "data")))


def test_pairs_hold_the_relaxed_energy_and_the_way_there(tmp_path: Path) -> None:
    samples = samples_of(tmp_path)
    assert [s.energy for s in samples] == [(-1.0, -2.0)[k % 2] + 0.01 * k for k in range(12)]
    for sample in samples:
        move = sample.relaxed - sample.positions
        # also of atoms that were wrapped into the cell
        assert np.abs(move[sample.tags > 0] - (0.0, 0.0, 0.1)).max() < 1e-6
        assert np.abs(move[sample.tags == 0]).max() < 1e-7  # what a file rounds
        assert np.isnan(sample.forces).all()


def test_the_split_of_others_is_kept(tmp_path: Path) -> None:
    assert {s.group for s in samples_of(tmp_path) if s.validation} == {"p2", "p5", "p8", "p11"}


def test_files_that_are_no_pairs_are_refused(tmp_path: Path) -> None:
    init, relaxed = write_pairs(tmp_path, 4)
    structures = read(relaxed, ":")
    source = DataSource(path=init, relaxed=tmp_path / "other.extxyz")
    write(tmp_path / "other.extxyz", structures[:3])
    with pytest.raises(
        InputError, match=r"init.extxyz contains more structures than .*other.extxyz"
    ):
        list(relaxed_pairs(source, Counter()))
    write(tmp_path / "other.extxyz", [structures[0], structures[2], structures[1], structures[3]])
    with pytest.raises(InputError, match="give the same atoms in the same order"):
        list(relaxed_pairs(source, Counter()))
    for one in structures:
        one.calc = None
    write(tmp_path / "other.extxyz", structures)
    with pytest.raises(InputError, match=r"none of the 4 relaxed structures of .* has an energy"):
        list(relaxed_pairs(source, Counter()))


def test_noise_moves_only_what_may_move_and_leaves_targets(tmp_path: Path) -> None:
    samples = samples_of(tmp_path)
    rngs = [np.random.default_rng(k) for k in range(len(samples))]
    noisy = add_noise(samples, Noise(probability=1.0, sigma=0.1), rngs)
    for before, after in zip(samples, noisy, strict=True):
        assert np.array_equal(after.positions[before.fixed], before.positions[before.fixed])
        assert (after.positions[~before.fixed] != before.positions[~before.fixed]).all()
        assert np.array_equal(after.relaxed, before.relaxed)
    quiet = add_noise(
        samples, Noise(probability=0.0), [np.random.default_rng(k) for k in range(len(samples))]
    )
    assert quiet == samples


def test_without_noise_a_structure_lies_between_unrelaxed_and_relaxed(tmp_path: Path) -> None:
    sample = samples_of(tmp_path)[0]
    (moved,) = add_noise([sample], Noise(probability=1.0, sigma=0.0), [np.random.default_rng(0)])
    shares = ((moved.positions - sample.positions)[:, 2] / 0.1)[sample.tags > 0]
    assert np.ptp(shares) < 1e-5
    assert 0 < shares[0] < 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("is2re")
    recipe = Recipe.parse(
        values_of(folder, steps=150, learning_rate=0.01, evaluate_every=150, ema_decay=0.5), "test"
    )
    return train(recipe, folder / "run", folder / "data", cpu_fabric())


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    return register_model(run, "direct", run.parent / "models", run.parent / "data")


@pytest.mark.slow
def test_training_learns_energies_and_moves(run: Path) -> None:
    (errors,) = json.loads((run / "metrics.json").read_text())["validation"].values()
    assert errors["n"] == 4
    assert errors["energy_mae"] < 0.2  # the two adsorbates are 1 eV apart
    assert errors["position_mae"] < 0.5 * errors["position_null"]


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path: Path) -> None:
    recipe = Recipe.parse(values_of(tmp_path, steps=6), "test")
    whole = train(recipe, tmp_path / "whole", tmp_path / "data", cpu_fabric())
    part = recipe.model_copy(
        update={
            "training": recipe.training.model_copy(
                update={"max_seconds": 1e-9, "checkpoint_every": 1}
            )
        }
    )
    for _ in range(6):
        train(part, tmp_path / "parts", tmp_path / "data", cpu_fabric())
    files = [
        next((folder / "checkpoint").glob("state-*.safetensors"))
        for folder in (whole, tmp_path / "parts")
    ]
    assert files[0].name == files[1].name == "state-6.safetensors"
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [{"accumulate": 4}, {"max_edges": 60}])
def test_micro_batches_learn_what_the_whole_batch_does(tmp_path: Path, cut: dict) -> None:
    values = values_of(tmp_path, batch_size=6)
    whole, losses = weights_after(Recipe.parse(values, "test"), tmp_path / "data", 5)
    values["training"] |= cut
    parts, found = weights_after(Recipe.parse(values, "test"), tmp_path / "data", 5)
    assert found == pytest.approx(losses, abs=1e-9)
    assert_equal_to_rounding(whole, parts)


@pytest.mark.slow
def test_the_model_predicts_energy_and_geometry_at_once(model: Path) -> None:
    start, end = pair(2)
    (result,) = geocalc.predict(start, str(model))
    record = result.record
    assert record.status == "PREDICTED"
    assert not record.converged
    assert (record.n_steps, record.n_evaluations, record.fmax) == (0, 1, None)
    assert abs(record.energy - end.get_potential_energy()) < 0.3
    free = start.get_tags() > 0
    moved = result.atoms.positions - start.positions
    assert np.array_equal(result.atoms.positions[~free], start.positions[~free])
    assert np.abs(moved[free] - (0.0, 0.0, 0.1)).mean() < 0.05
    assert result.atoms.get_potential_energy() == record.energy


@pytest.mark.slow
def test_its_card_and_its_calculator(model: Path) -> None:
    loaded = load_model(model)
    assert loaded.card.task is Task.IS2RE
    assert loaded.card.drop_subsurface
    assert loaded.card.adsorbate_edges
    calc = GeoCalc(model)
    assert calc.implemented_properties == ["energy", "free_energy"]


@pytest.mark.slow
def test_it_cannot_relax(model: Path) -> None:
    with pytest.raises(
        InputError, match=r"direct predicts relaxed energies .* use `geocalc predict`"
    ):
        geocalc.relax(pair(0)[0], str(model))


@pytest.mark.slow
def test_commands(model: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "new.extxyz", [pair(20)[0], pair(21)[0]])
    told = CliRunner().invoke(main, ["predict", "new.extxyz", "--model", str(model)])
    assert told.exit_code == 0, told.output
    assert "2 PREDICTED" in told.output
    final = read(tmp_path / "new-predict" / "relaxed.extxyz", ":")
    assert [atoms.info["geocalc_status"] for atoms in final] == ["PREDICTED"] * 2
    assert "geocalc_forces" not in final[0].arrays
    measured = CliRunner().invoke(
        main,
        ["evaluate", str(model), str(run / "recipe.yaml"), "--task", "is2re", "--out", "measured"],
    )
    assert measured.exit_code == 0, measured.output
    (results,) = json.loads((tmp_path / "measured" / "metrics.json").read_text())[
        "results"
    ].values()
    assert results["n"] == 4
    assert len((tmp_path / "measured").glob("*.csv").__next__().read_text().splitlines()) == 5
    assert {path.name.split("-")[-1] for path in (tmp_path / "measured").glob("*.png")} == {
        "is2re.png",
        "is2rs.png",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "s2ef"}, "are for task: is2re"),
        ({"model": {"force_mode": "gradient"}}, "has no forces; set model.force_mode: none"),
        ({"model": {"reads_tags": False}}, "go by tags; set model.reads_tags: true"),
        ({"training": {"force_weight": 1.0}}, "training.force_weight is for task: s2ef"),
        ({"training": {"displacement_weight": 0.0}}, "displacements need both"),
    ],
)
def test_recipes_that_make_no_sense(change: dict, message: str, tmp_path: Path) -> None:
    values = values_of(tmp_path)
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    with pytest.raises(RecipeError, match=message):
        read_recipe(write_recipe(tmp_path / "r.yaml", values))


def test_a_pair_without_its_file(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    del values["data"]["sources"][0]["relaxed"]
    with pytest.raises(RecipeError, match="name their file as `relaxed`"):
        read_recipe(write_recipe(tmp_path / "r.yaml", values))


@pytest.mark.slow
def test_the_network_computes_the_same_in_float64(model: Path) -> None:
    start = pair(4)[0]
    single, double = (
        geocalc.predict(start, str(model), dtype=name)[0].record.energy
        for name in ("float32", "float64")
    )
    assert abs(single - double) < 1e-4
    assert single != double
    assert torch.get_default_dtype() is torch.float32


@pytest.fixture
def potential(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models")


@pytest.mark.slow
def test_a_relaxation_starts_where_the_model_thinks_that_it_ends(
    model: Path, potential: Path
) -> None:
    starts = [pair(k)[0] for k in range(3)]
    options = {"steps": 1, "fmax": 1e-9, "dtype": "float64"}
    plain = geocalc.relax(starts, str(potential), **options)
    warm = [
        geocalc.relax(starts, str(potential), **options, warm_start=str(model), workers=n)
        for n in (1, 2)
    ]
    assert [r.record.energy for r in warm[0]] == [r.record.energy for r in warm[1]]
    predicted = geocalc.predict(starts, str(model))
    for start, before, after, end in zip(starts, plain, warm[0], predicted, strict=True):
        assert after.record.n_evaluations == 2
        tried = geocalc.predict(end.atoms, str(potential), dtype="float64")[0].record
        first = geocalc.predict(start, str(potential), dtype="float64")[0].record
        taken = tried.energy <= first.energy and tried.fmax <= first.fmax
        assert after.record.energy == pytest.approx(
            tried.energy if taken else first.energy, abs=1e-6
        )
        assert before.record.n_steps == 1


@pytest.mark.slow
def test_what_the_model_does_not_know_starts_as_it_is(model: Path, potential: Path) -> None:
    bare = pair(0)[0]
    bare = bare[bare.get_tags() < 2]
    plain, warm = (
        geocalc.relax(bare, str(potential), steps=2, fmax=1e-9, warm_start=start)[0].record
        for start in (None, str(model))
    )
    assert (plain.energy, plain.n_evaluations) == (warm.energy, warm.n_evaluations)


def test_models_that_cannot_be_started_from(potential: Path) -> None:
    with pytest.raises(InputError, match="does not predict where atoms end"):
        geocalc.relax(pair(0)[0], str(potential), warm_start=str(potential))


@pytest.mark.slow
def test_warm_starts_on_the_command_line(
    model: Path, potential: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "new.extxyz", [pair(20)[0]])
    words = [
        "relax",
        "new.extxyz",
        "--model",
        str(potential),
        "--warm-start",
        str(model),
        "--steps",
        "2",
        "--fmax",
        "1e-9",
    ]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 3, told.output  # two steps are not enough
    assert (
        "StartingModel(model=DirectModel(folder="
        in (tmp_path / "new-relax" / "settings.yaml").read_text()
    )


def test_references_are_those_of_the_atoms_that_are_seen(tmp_path: Path) -> None:
    """Total energies: what a network must learn is what the composition of the atoms that it sees
    leaves over.
    """
    values = values_of(tmp_path)
    values["fitted_references"] = {"elements": []}
    recipe = Recipe.parse(values, "test")
    samples = [replace(s, energy=s.energy - 100.0 * len(s.numbers)) for s in samples_of(tmp_path)]
    model = build_model(recipe, samples)
    for sample in samples:
        seen = torch.from_numpy(sample.numbers[sample.tags > 0])
        assert float(model.references[0, seen].sum()) == pytest.approx(sample.energy, abs=1.0)
    assert model.energy_scale < 1.0
