"""Models of properties: registered, listed, predicted with, and refused where they cannot serve or
are damaged.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.io import read, write
from click.testing import CliRunner, Result
from helpers.glasses import glass, recipe_values, write_glasses, write_recipe
from helpers.training import cpu_fabric

from geocalc import GeoCalc, relax
from geocalc.cli.main import main
from geocalc.errors import InputError, ModelFileError
from geocalc.potentials.registry import read_card
from geocalc.properties.card import PropertyCard
from geocalc.properties.data import read_split
from geocalc.properties.glass.configuration import glass_atoms
from geocalc.properties.load import LoadedPropertyModel, load_property_model
from geocalc.properties.recipe import PropertyRecipe, read_property_recipe
from geocalc.properties.register import register_property
from geocalc.properties.task import predict_graph, train_property
from geocalc.runs.records import Record
from geocalc.train import curve
from geocalc.train.run_files import read_log

FILES = {"model.yaml", "weights.safetensors", "recipe.yaml", "metrics.json", "README.md"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three finished runs that differ in their seeds, with the configurations beside them."""
    folder = tmp_path_factory.mktemp("runs")
    values = recipe_values(write_glasses(folder / "glass"))
    return [trained(values, folder / f"seed-{seed}", seed=seed) for seed in range(3)]


def trained(values: dict[str, Any], folder: Path, **training: Any) -> Path:
    recipe = PropertyRecipe.parse(values | {"training": values["training"] | training}, "test")
    return train_property(recipe, folder, folder.parent / "data", cpu_fabric())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, empty; files are written in a folder of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GEOCALC_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "geocalc" / "models"


@pytest.fixture
def model(runs: list[Path], place: Path) -> Path:
    return register_property(runs[:1], "mine", place, runs[0].parent / "data")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def held_out(seed: int = 9) -> Atoms:
    return glass_atoms(glass(seed))


# register


def test_a_registered_model_is_whole_and_predicts_as_the_run_does(
    runs: list[Path], model: Path, place: Path
) -> None:
    assert {path.name for path in model.iterdir()} == FILES
    assert [path.name for path in place.iterdir()] == ["mine"]
    recipe = read_property_recipe(model / "recipe.yaml")
    (sample,) = read_split(recipe.data, place).validation
    measured = json.loads((model / "metrics.json").read_text())["validation"]["validation"]
    loaded = load_property_model("mine", device="cpu")
    told, known = (
        predict_graph(loaded.model, sample, CPU)[sample.counted],
        sample.targets.numpy()[sample.counted],
    )
    assert measured["n"] == 100
    assert measured["mae"] == pytest.approx(np.abs(told - known).mean(), rel=1e-5)
    assert measured["pearson"] == pytest.approx(
        np.corrcoef(told[:, 0], known[:, 0])[0, 1], rel=1e-4
    )
    assert loaded(glass_atoms(glass(4)))[sample.counted] == pytest.approx(told, abs=1e-6)
    assert measured == read_log(runs[0])[-1]["validation"]["validation"]


def test_its_readme_says_which_number_is_what(model: Path) -> None:
    text = (model / "README.md").read_text()
    for line in (
        "# mine",
        "graph-network; predicts the propensity (sigma_AA) of each node.",
        "| n | nodes that were held out and count | 100 |",
        "| mae | mean absolute error (sigma_AA) | ",
        "| pearson | Pearson's correlation over all nodes together | ",
        "| pearson_each | Pearson's correlation within each structure, mean over structures | ",
        "- made up",
        "- no physics",
        "- A. Author, J. Tests 1, 1 (2026)",
    ):
        assert line in text


def test_three_runs_are_their_mean(runs: list[Path], place: Path) -> None:
    for k, run in enumerate(runs):
        register_property([run], f"one-{k}", place, run.parent / "data")
    done = invoke("register", *runs, "--name", "all")
    assert done.exit_code == 0, done.output
    single = [load_property_model(f"one-{k}", device="cpu")(held_out()) for k in range(3)]
    together = load_property_model("all", device="cpu")
    assert together(held_out()) == pytest.approx(np.mean(single, axis=0), rel=1e-5, nan_ok=True)
    assert np.nanmax(np.std(single, axis=0)) > 1e-3
    assert together.card.members == 3
    measured = json.loads((place / "all" / "metrics.json").read_text())
    found = measured["validation"]["validation"]
    alone = [
        json.loads((place / f"one-{k}" / "metrics.json").read_text())["validation"]["validation"]
        for k in range(3)
    ]
    # convexity: strictly less, as they differ
    assert found["rmse"] < np.mean([one["rmse"] for one in alone])
    assert (
        "Of the networks together, on what all of them held out."
        in (place / "all" / "README.md").read_text()
    )


def test_runs_that_hold_out_different_structures_have_the_means_of_their_errors(
    runs: list[Path], place: Path
) -> None:
    values = recipe_values(runs[0].parent / "glass")
    values["data"]["validation"] = ["g3"]
    other = trained(values, runs[0].parent / "other")
    target = register_property([runs[0], other], "both", place, runs[0].parent / "data")
    found = json.loads((target / "metrics.json").read_text())["validation"]["validation"]
    each = [
        json.loads((run / "metrics.json").read_text())["validation"]["validation"]
        for run in (runs[0], other)
    ]
    assert found == pytest.approx({name: (each[0][name] + each[1][name]) / 2 for name in each[0]})
    assert (
        "Of single networks, each on what it held out: means over the networks."
        in (target / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("data", "graph", {"cutoff": 1.2}),
        ("data", "counted", [0, 1]),
        ("model", "settings", {"hidden_channels": 4}),
    ],
)
def test_runs_of_different_recipes_are_no_model(
    runs: list[Path], place: Path, part: str, key: str, value: Any
) -> None:
    values = recipe_values(runs[0].parent / "glass")
    values[part][key] = value
    other = trained(values, place.parent / "other", steps=1)
    with pytest.raises(
        InputError,
        match=f"differ in `{part}` of their recipes; the runs of one model differ only in seeds",
    ):
        register_property([runs[0], other], "both", place, place / "data")
    assert not place.exists()


def test_an_unfinished_run_is_no_model(runs: list[Path], place: Path) -> None:
    values = recipe_values(runs[0].parent / "glass")
    run = trained(values, place.parent / "short", max_seconds=1e-9)
    done = invoke("register", run, "--name", "short")
    assert done.exit_code == 1
    assert (
        "has done 1 of 12 steps; finish it with `geocalc train ... --resume` first" in done.output
    )


def test_a_name_that_is_taken_is_refused(model: Path, runs: list[Path]) -> None:
    done = invoke("register", runs[1], "--name", "mine")
    assert done.exit_code == 1
    assert "a model named 'mine' is in" in done.output


def test_models_lists_it_and_shows_its_card(model: Path) -> None:
    (line,) = [line for line in invoke("models").output.splitlines() if line.startswith("mine ")]
    assert line.split() == ["mine", "node", "propensity", "tests"]
    shown = invoke("models", "mine").output
    assert "# mine" in shown
    assert f"Weights SHA-256: {read_card(model, PropertyCard).weights_sha256}" in shown


# predict


def test_predict_writes_what_the_python_call_gives(model: Path) -> None:
    write("config.extxyz", [held_out(8), held_out(9)])
    done = invoke("predict", "config.extxyz", "--model", "mine", "--device", "cpu")
    assert done.exit_code == 0, done.output
    loaded = load_property_model(model, device="cpu")
    found = read("config-predict/predicted.extxyz", ":")
    assert len(found) == 2
    for before, after in zip(read("config.extxyz", ":"), found, strict=True):
        np.testing.assert_allclose(
            after.arrays["propensity"], loaded(before)[:, 0], rtol=0, atol=1e-7
        )
        np.testing.assert_array_equal(after.positions, before.positions)
        np.testing.assert_array_equal(after.arrays["types"], before.arrays["types"])
    assert "propensity sigma_AA" in done.output
    assert "results in config-predict" in done.output


def test_predict_keeps_settings_and_a_record_of_every_structure(model: Path) -> None:
    slab = Atoms("Cu4", np.eye(4, 3), cell=[9, 9, 9], pbc=(True, True, False))
    write("some.extxyz", [held_out(8), slab])
    assert invoke("predict", "some.extxyz", "--model", "mine", "--device", "cpu").exit_code == 3
    folder, loaded = Path("some-predict"), load_property_model(model, device="cpu")
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    assert settings["resolved"]["model"] == "mine"
    assert settings["resolved"]["model_hash"] == loaded.hash
    assert settings["provenance"]["inputs"] == ["some.extxyz"]
    assert settings["provenance"]["property"] == "propensity"
    good, bad = [
        Record.from_json(line) for line in (folder / "results.jsonl").read_text().splitlines()
    ]
    values = loaded(held_out(8))
    known = values[np.isfinite(values)]
    assert (good.sid, good.status, good.error) == ("some.extxyz#0", "PREDICTED", None)
    assert (good.model, good.model_hash, good.energy) == ("mine", loaded.hash, None)
    assert good.property is not None
    assert (good.property.name, good.property.unit) == ("propensity", "sigma_AA")
    assert good.property.n == len(known)
    assert good.property.mean == pytest.approx((known.mean(),), abs=1e-6)
    assert good.property.std == pytest.approx((known.std(),), abs=1e-6)
    assert (bad.sid, bad.status, bad.property) == ("some.extxyz#1", "ERROR", None)
    assert "a glass is periodic in all directions" in str(bad.error)


def test_numbers_of_no_element_end_one_structure(model: Path) -> None:
    strange = held_out(8)
    strange.numbers[:3] = 200
    write("odd.traj", [strange, held_out(8)])
    assert invoke("predict", "odd.traj", "--model", "mine", "--device", "cpu").exit_code == 3
    lines = (Path("odd-predict") / "results.jsonl").read_text().splitlines()
    bad, good = [Record.from_json(line) for line in lines]
    assert (bad.status, bad.formula) == ("ERROR", None)
    assert good.status == "PREDICTED"


def test_a_prediction_that_was_stopped_goes_on_where_it_was(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("all.extxyz", [held_out(seed) for seed in (7, 8, 8, 9)])
    whole = invoke("predict", "all.extxyz", "--model", "mine", "--out", "whole")
    assert whole.exit_code == 0, whole.output
    write("first.extxyz", held_out(7))
    calls: list[Atoms] = []
    predict_one = LoadedPropertyModel.__call__

    def stopped(self: LoadedPropertyModel, atoms: Atoms) -> np.ndarray:
        calls.append(atoms)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict_one(self, atoms)

    monkeypatch.setattr(LoadedPropertyModel, "__call__", stopped)
    command = ("predict", "all.extxyz", "--model", "mine", "--out", "parts")
    assert invoke(*command).exit_code != 0
    refused = invoke(*command)
    assert refused.exit_code == 1
    assert "parts holds results already; resume to continue them" in refused.output
    assert invoke(*command, "--resume").exit_code == 0
    assert len(calls) == 5  # two before the stop, the stopped one, and two after it
    for name in ("results.jsonl", "predicted.extxyz"):
        assert len(Path("parts", name).read_text()) > 0
    parts, once = (
        [Record.from_json(line) for line in Path(folder, "results.jsonl").read_text().splitlines()]
        for folder in ("parts", "whole")
    )
    assert [one.property for one in parts] == [one.property for one in once]
    assert Path("parts/predicted.extxyz").read_text() == Path("whole/predicted.extxyz").read_text()


def test_options_and_files_of_settings_choose_the_model_too(model: Path) -> None:
    write("config.extxyz", held_out())
    Path("c.yaml").write_text("model: mine\n")
    assert invoke("predict", "config.extxyz", "--config", "c.yaml", "--out", "a").exit_code == 0
    assert invoke("predict", "config.extxyz", "--set", "model=mine", "--out", "b").exit_code == 0


@pytest.mark.parametrize(
    ("option", "value"), [("frames", "averaged"), ("level", "PBE"), ("dtype", "float64")]
)
def test_options_that_only_models_of_energies_have_are_refused(
    model: Path, option: str, value: str
) -> None:
    write("config.extxyz", held_out())
    done = invoke("predict", "config.extxyz", "--model", "mine", f"--{option}", value)
    assert done.exit_code == 1
    assert f"{option} is '{value}', but models of properties have one choice only" in done.output
    assert not Path("config-predict").exists()


def test_a_folder_that_holds_predictions_is_not_overwritten(model: Path) -> None:
    write("config.extxyz", held_out())
    assert invoke("predict", "config.extxyz", "--model", "mine").exit_code == 0
    target = Path("config-predict/predicted.extxyz")
    target.write_text("mine")
    refused = invoke("predict", "config.extxyz", "--model", "mine")
    assert refused.exit_code == 1
    assert "config-predict holds results already; resume to continue them" in refused.output
    assert target.read_text() == "mine"
    assert invoke("predict", "config.extxyz", "--model", "mine", "--resume").exit_code == 0
    assert "propensity" in target.read_text()


def test_the_exit_status_tells_whether_all_some_or_none_could_be_predicted(model: Path) -> None:
    slab = Atoms("Cu4", np.eye(4, 3), cell=[9, 9, 9], pbc=(True, True, False))
    write("some.extxyz", [held_out(), slab])
    some = invoke("predict", "some.extxyz", "--model", "mine")
    assert some.exit_code == 3
    assert "a glass is periodic in all directions" in some.output
    assert len(read("some-predict/predicted.extxyz", ":")) == 1
    write("none.extxyz", [slab])
    none = invoke("predict", "none.extxyz", "--model", "mine")
    assert none.exit_code == 1
    assert "a glass is periodic in all directions" in none.output
    assert invoke("predict", "missing.extxyz", "--model", "mine").exit_code == 1


@pytest.fixture
def predicted(model: Path) -> Callable[[Atoms], np.ndarray]:
    return load_property_model(model, device="cpu")


def test_the_order_of_particles_moves_their_propensity_with_them(
    predicted: Callable[[Atoms], np.ndarray],
) -> None:
    atoms = held_out()
    order = np.random.default_rng(0).permutation(len(atoms))
    np.testing.assert_allclose(predicted(atoms[order]), predicted(atoms)[order], rtol=0, atol=1e-5)


def test_a_translation_and_other_images_change_nothing(
    predicted: Callable[[Atoms], np.ndarray],
) -> None:
    atoms, moved = held_out(), held_out()
    moved.positions += [0.7, -1.9, 12.3]
    moved.positions[::7] -= moved.cell.lengths() * [1, 0, 2]
    np.testing.assert_allclose(predicted(moved), predicted(atoms), rtol=0, atol=1e-5)
    wrapped = moved.copy()
    wrapped.wrap()
    np.testing.assert_allclose(predicted(wrapped), predicted(atoms), rtol=0, atol=1e-5)


def test_particles_beyond_reach_do_not_matter(predicted: Callable[[Atoms], np.ndarray]) -> None:
    atoms, other = held_out(), held_out()
    other.positions[0] += 0.05
    near = atoms.get_distances(0, range(len(atoms)), mic=True) < 1.3 * 1.5
    counted = atoms.arrays["types"] == 0
    change = np.abs(predicted(other) - predicted(atoms))[:, 0]
    assert change[near & counted].max() > 1e-4
    assert np.all(change[~near & counted] == 0)  # one step: only neighbors hear of it


def test_particles_that_it_was_not_learnt_for_have_no_number(
    predicted: Callable[[Atoms], np.ndarray],
) -> None:
    atoms = held_out()
    np.testing.assert_array_equal(np.isnan(predicted(atoms)[:, 0]), atoms.arrays["types"] == 1)


def test_types_may_be_told_by_elements(predicted: Callable[[Atoms], np.ndarray]) -> None:
    atoms = held_out()
    del atoms.arrays["types"]
    named = Atoms(
        np.where(atoms.numbers == 1, "Ni", "P"), atoms.positions, cell=atoms.cell, pbc=True
    )
    np.testing.assert_array_equal(predicted(named), predicted(held_out()))


# refused


def test_a_model_of_a_property_relaxes_nothing(model: Path) -> None:
    sentence = (
        r"mine is a model of task node (propensity), expected s2ef or is2re; `geocalc predict"
        " --model` takes models of every task"
    )
    for use in (lambda: GeoCalc("mine"), lambda: relax(held_out(), model="mine")):
        with pytest.raises(ModelFileError, match=re.escape(sentence)):
            use()
    write("config.extxyz", held_out())
    done = invoke("relax", "config.extxyz", "--model", "mine")
    assert done.exit_code == 1
    assert sentence in done.output
    assert not Path("config-relax").exists()


def test_a_model_of_energies_predicts_no_property(place: Path) -> None:
    with pytest.raises(
        ModelFileError,
        match="faenet-sfa is a model of task s2ef, expected node or graph",
    ):
        load_property_model("faenet-sfa")


def test_damaged_weights_are_refused(model: Path) -> None:
    weights = bytearray((model / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ModelFileError, match="the file is damaged, truncated or was changed"):
        load_property_model("mine")
    write("config.extxyz", held_out())
    done = invoke("predict", "config.extxyz", "--model", "mine")
    assert done.exit_code == 1
    assert done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"settings": {"hidden_channels": 9, "num_layers": 1}},
            "the weights of mine do not fit its card",
        ),
        ({"settings": {"hiden": 9}}, "do not fit its card: .*unknown key `hiden`"),
        ({"members": 2}, "the weights of mine do not fit its card"),
        ({"n_targets": 2}, "the weights of mine do not fit its card"),
        ({"architecture": "none"}, "unknown architecture `none`"),
        ({"counted": "A"}, "`counted` is 'A'"),
        ({"color": "blue"}, "unknown key `color`"),
        (
            {"schema_version": 99},
            "has schema version 99, this geocalc reads up to 1; upgrade geocalc",
        ),
    ],
)
def test_a_card_that_was_changed_is_refused(
    model: Path, change: dict[str, Any], sentence: str
) -> None:
    card = yaml.safe_load((model / "model.yaml").read_text())
    (model / "model.yaml").write_text(yaml.safe_dump(card | change))
    with pytest.raises(ModelFileError, match=sentence):
        load_property_model("mine")


def test_a_damaged_card_does_not_hide_the_other_models(model: Path) -> None:
    shutil.copytree(model, model.with_name("other"))
    (model / "model.yaml").write_text("task: node\n")
    listed = invoke("models").output
    assert "other" in listed
    assert "mine  " in listed
    assert "(!)" in listed


def test_configurations_that_are_none_are_refused(predicted: Callable[[Atoms], np.ndarray]) -> None:
    small = replace_positions(held_out(), 2.0)
    with pytest.raises(InputError, match="density"):
        predicted(small)
    three = held_out()
    three.arrays["types"][0] = 2
    with pytest.raises(InputError, match="types hold 2; expected 0 for A and 1 for B"):
        predicted(three)


def replace_positions(atoms: Atoms, factor: float) -> Atoms:
    """The same with its box and positions larger."""
    larger = atoms.copy()
    larger.set_cell(atoms.cell * factor, scale_atoms=True)
    return larger


# the command


def test_the_curve_of_a_property_is_of_what_is_measured(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(curve, "learning_curve", lambda *given: seen.extend(given))
    curve.draw_curve(runs[0])
    points, path, measures = seen
    errors = [
        entry["validation"]["validation"] for entry in read_log(runs[0]) if "validation" in entry
    ]
    assert points == {
        "validation": [(6 * (k + 1), 1 - one["r2"], one["pearson"]) for k, one in enumerate(errors)]
    }
    assert len(errors) == 2
    assert path == runs[0] / "learning-curve.png"
    assert [measure.label for measure in measures] == ["1 − R²", "Pearson correlation"]


@pytest.mark.slow
def test_train_draws_the_curve_of_a_property_and_says_how_to_go_on(
    runs: list[Path], place: Path
) -> None:
    recipe = write_recipe(
        Path("recipe.yaml"), recipe_values(runs[0].parent / "glass", steps=4, evaluate_every=2)
    )
    done = invoke("train", recipe, "--out", "run", "--device", "cpu")
    torch.set_flush_denormal(False)  # what the command sets for its process
    assert done.exit_code == 0, done.output
    assert "`geocalc register run --name NAME` makes it a model" in done.output
    assert Path("run/learning-curve.png").read_bytes().startswith(b"\x89PNG")
    assert [entry["step"] for entry in read_log(Path("run")) if "validation" in entry] == [2, 4]
    assert invoke("train", recipe, "--out", "run").exit_code == 1
