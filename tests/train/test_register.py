from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.training import (
    cpu_fabric,
    make_recipe,
    recipe_values,
    relaxation,
    relaxations,
    write_data,
    write_recipe,
)

from geocalc import GeoCalc, load_model
from geocalc.cli.main import main
from geocalc.data.collate import collate_samples
from geocalc.data.prepare import prepare_store
from geocalc.data.store import read_store
from geocalc.errors import InputError
from geocalc.frames import frame_policy
from geocalc.potentials.network import NetworkPotential
from geocalc.potentials.registry import read_card
from geocalc.train import publish as publish_module
from geocalc.train.checkpoint import load_checkpoint
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.register import register_model
from geocalc.train.run import start_training
from geocalc.train.task import train

FILES = {
    "model.yaml",
    "weights.safetensors",
    "domain.safetensors",
    "recipe.yaml",
    "metrics.json",
    "README.md",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run with its prepared data beside it."""
    folder = tmp_path_factory.mktemp("runs")
    values = recipe_values(write_data(folder / "d.traj", relaxations(10)), steps=8)
    values["fitted_references"] = {"elements": ["O"]}
    values["model"]["repulsion_reach"] = 0.7
    values["about"]["citation"] = ["A. Author, J. Tests 1, 1 (2026)"]
    return train(Recipe.parse(values, "test"), folder / "run", folder / "data", cpu_fabric())


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The user's folder of models, empty."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GEOCALC_MODELS", raising=False)
    return tmp_path / "home" / "geocalc" / "models"


def data_of(run: Path) -> Path:
    return run.parent / "data"


def test_a_registered_model_is_whole_and_found_by_name_and_by_path(finished, place):
    target = register_model(finished, "mine", place, data_of(finished))
    assert target == place / "mine"
    assert {p.name for p in target.iterdir()} == FILES
    assert [p.name for p in place.iterdir()] == ["mine"]
    atoms = relaxation("x", n_frames=1, seed=99)[0]
    energies = {GeoCalc(name).get_potential_energy(atoms) for name in ("mine", target)}
    assert len(energies) == 1


def test_helpers_are_no_part_of_the_domain(finished, place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    text = (run / "recipe.yaml").read_text()
    assert "domain: true" in text
    (run / "recipe.yaml").write_text(text.replace("domain: true", "domain: false"))
    n_stores = len(list(data_of(finished).iterdir()))
    target = register_model(run, "mine", place, data_of(finished))
    assert {p.name for p in target.iterdir()} == FILES - {"domain.safetensors"}
    assert len(list(data_of(finished).iterdir())) == n_stores  # the prepared data are used


def test_a_registered_model_gives_the_energies_of_the_averaged_weights(finished, place):
    target = register_model(finished, "mine", place, data_of(finished))
    recipe = read_recipe(finished / "recipe.yaml")
    samples = read_store(prepare_store(recipe, data_of(finished)))
    run = start_training(recipe, samples.training)
    load_checkpoint(finished / "checkpoint", run.model.network, run.optimizer, run.average)
    batch, _ = collate_samples(samples[:6])
    policy = frame_policy("averaged")
    averaged, last = (
        NetworkPotential(model=m, policy=policy)(batch) for m in (run.averaged(), run.model.eval())
    )
    found = load_model(target)(batch)
    torch.testing.assert_close(found.energy, averaged.energy, rtol=0, atol=0)
    torch.testing.assert_close(found.forces, averaged.forces, rtol=0, atol=0)
    assert not torch.allclose(found.energy, last.energy)


def test_the_card_says_what_the_recipe_and_the_data_say(finished, place):
    target = register_model(finished, "mine", place, data_of(finished))
    card = read_card(target)
    assert (card.name, card.elements, card.energy_kind.value, card.level_of_theory) == (
        "mine",
        ("O", "Cu"),
        "total",
        "EMT",
    )
    assert set(card.reference_energies) == {"O"}
    assert (card.force_mode, card.conservative, card.frames, card.repulsion_reach) == (
        "gradient",
        True,
        "averaged",
        0.7,
    )
    assert read_recipe(target / "recipe.yaml") == read_recipe(finished / "recipe.yaml")
    measured = json.loads((target / "metrics.json").read_text())["validation"]
    readme = (target / "README.md").read_text()
    assert all(f"{errors['force_mae']:.4f}" in readme for errors in measured.values())
    assert "made by the tests" in readme
    assert card.citation == ("A. Author, J. Tests 1, 1 (2026)",)
    assert "## Citation\n\n- A. Author, J. Tests 1, 1 (2026)\n" in readme


@pytest.mark.parametrize(
    ("frames", "conservative"), [("single", True), ("pca-2d-stochastic", False)]
)
def test_forces_of_random_frames_are_not_called_conservative(
    finished, place, tmp_path, frames, conservative
):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    recipe = read_recipe(run / "recipe.yaml")
    changed = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"frames": frames})}
    )
    write_recipe(run / "recipe.yaml", changed.model_dump(mode="json"))
    assert (
        read_card(register_model(run, "mine", place, data_of(finished))).conservative
        is conservative
    )


def test_a_folder_that_holds_only_a_recipe_is_filled(finished, place):
    (place / "mine").mkdir(parents=True)
    shutil.copy(finished / "recipe.yaml", place / "mine" / "recipe.yaml")
    target = register_model(finished, "mine", place, data_of(finished))
    assert {p.name for p in target.iterdir()} == FILES


def test_an_unfinished_run_is_refused(finished, place, tmp_path):
    run = train(
        make_recipe(finished.parent / "d.traj", steps=8, max_seconds=1e-6),
        tmp_path / "r",
        tmp_path / "data",
        cpu_fabric(),
    )
    with pytest.raises(
        InputError,
        match=r"has done 1 of 8 steps; finish it with `geocalc train ... --resume` first",
    ):
        register_model(run, "mine", place, tmp_path / "data")
    assert not place.exists()


def test_a_folder_that_is_no_run_is_refused(place, tmp_path):
    with pytest.raises(
        InputError, match=r"is not a training run: it needs recipe.yaml and a checkpoint"
    ):
        register_model(tmp_path, "mine", place, tmp_path / "data")
    assert not place.exists()


def test_a_taken_name_is_refused(finished, place):
    target = register_model(finished, "mine", place, data_of(finished))
    before = {p: p.read_bytes() for p in target.iterdir()}
    with pytest.raises(InputError, match=r"a model named 'mine' is in .* already"):
        register_model(finished, "mine", place, data_of(finished))
    assert {p: p.read_bytes() for p in target.iterdir()} == before


def test_a_name_that_another_searched_folder_holds_is_refused(
    finished, place, tmp_path, monkeypatch
):
    register_model(finished, "mine", tmp_path / "others", data_of(finished))
    monkeypatch.setenv("GEOCALC_MODELS", str(tmp_path / "others"))
    with pytest.raises(InputError, match=r"a model named 'mine' is installed already, in .*others"):
        register_model(finished, "mine", place, data_of(finished))
    assert not place.exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "two words", "../up"])
def test_what_is_no_plain_name_is_refused(finished, place, name):
    with pytest.raises(InputError, match="cannot be a model name; use letters, digits"):
        register_model(finished, name, place, data_of(finished))
    assert not place.exists()


def test_a_failure_in_the_middle_leaves_nothing(finished, place, monkeypatch):
    def fail(folder, card, tensors):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish_module, "write_domain", fail)
    with pytest.raises(OSError, match="No space left"):
        register_model(finished, "mine", place, data_of(finished))
    assert list(place.iterdir()) == []


def test_the_command_registers_and_says_how_to_use_it(finished, place):
    done = CliRunner().invoke(main, ["register", str(finished), "--name", "mine"])
    assert done.exit_code == 0, done.output
    assert "GeoCalc('mine') finds it" in done.output
    again = CliRunner().invoke(main, ["register", str(finished), "--name", "mine"])
    assert again.exit_code == 1
    assert again.output.startswith("geocalc: a model named 'mine' is in")
    assert np.isfinite(GeoCalc("mine").get_potential_energy(relaxation("x", n_frames=1)[0]))
