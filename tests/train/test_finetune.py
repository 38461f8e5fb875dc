"""Fine-tuning: what a run takes over from a model, and what it learns anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from click.testing import CliRunner
from helpers.models import edit_card
from helpers.training import cpu_fabric, make_recipe, relaxations, write_data

from geocalc import GeoCalc, load_model
from geocalc.cli.main import main
from geocalc.core.energies import EnergyKind
from geocalc.core.settings import read_yaml
from geocalc.data.prepare import prepare_store
from geocalc.data.store import Sample, read_store
from geocalc.errors import DataWarning, EnergyKindError, InputError, RecipeError
from geocalc.train.anchors import labels_of
from geocalc.train.finetune import TRAINING, begin_with, tuned_values
from geocalc.train.recipe import FittedReferences, Recipe, parse_recipe, read_recipe
from geocalc.train.register import register_model
from geocalc.train.run import start_training
from geocalc.train.settings import FineTuning
from geocalc.train.task import train

pytestmark = pytest.mark.filterwarnings("ignore::geocalc.errors.DataWarning")
SHIFTS = {29: 7.0, 8: -3.0}  # eV an atom, between the level of the model and that of the new data


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    recipe = make_recipe(
        write_data(folder / "d.traj", relaxations(10)), steps=60, learning_rate=0.01
    )
    return register_model(
        train(recipe, folder / "run", folder / "data", cpu_fabric()),
        "base",
        folder,
        folder / "data",
    )


def shifted(frames: list[Atoms]) -> list[Atoms]:
    copies = []
    for frame in frames:
        copy, old = frame.copy(), frame.calc.results
        energy = old["energy"] + sum(SHIFTS[z] for z in frame.numbers)
        copy.calc = SinglePointCalculator(copy, energy=energy, forces=old["forces"])
        copies.append(copy)
    return copies


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "mine.extxyz"
    write(path, shifted(relaxations(12)))
    return path


def recipe_of(model: Path, data: Path, **training: object) -> Recipe:
    values = tuned_values(str(model), data)
    values["training"] |= {"steps": 10, "evaluate_every": 10, "checkpoint_every": 5, **training}
    return parse_recipe(values, "test")


def samples_of(recipe: Recipe, folder: Path) -> list[Sample]:
    return [s for s in read_store(prepare_store(recipe, folder)) if not s.validation]


@pytest.mark.slow
def test_it_begins_with_the_weights_and_with_references_of_the_new_level(
    model: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(model, data)
    samples = samples_of(recipe, tmp_path / "data")
    begun, old = start_training(recipe, samples).model, load_model(model).potential.model
    for (name, new), (_, before) in zip(
        begun.network.named_parameters(), old.network.named_parameters(), strict=True
    ):
        assert torch.equal(new, before), name
        assert new.requires_grad
    shift = (begun.references - old.references)[0].numpy()
    counts = np.bincount(samples[0].numbers, minlength=119)
    # as far as the model is right
    assert counts @ shift == pytest.approx(sum(SHIFTS[z] for z in samples[0].numbers), abs=1.0)
    assert (begun.energy_scale, begun.force_scale) == (old.energy_scale, old.force_scale)


@pytest.mark.slow
def test_the_recipe_holds_every_choice_and_says_what_it_was_made_on(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(model, data)
    assert recipe.finetuning == FineTuning()
    assert "palladium" in FineTuning().chosen_on
    assert "The settings of fine-tuning were chosen on relaxations of adsorbates on palladium." in (
        recipe.about.limits
    )
    chosen = ("passes=1", "min_steps=1", "max_steps=2", "chosen_on=my steps", "reference_hold=0")
    options = [word for one in chosen for word in ("--set", f"finetuning.{one}")]
    words = ["train", str(data), "--from", str(model), "--out", "run", "--device", "cpu"]
    told = CliRunner().invoke(main, [*words, *options])
    assert told.exit_code == 0, told.output
    kept = read_recipe(tmp_path / "run" / "recipe.yaml")
    assert kept.training.steps == 2
    assert kept.finetuning == FineTuning(
        passes=1, min_steps=1, max_steps=2, chosen_on="my steps", reference_hold=0
    )
    assert kept.about.limits == ("The settings of fine-tuning were chosen on my steps.",)


def of_kind(model: Path, kind: str, parent: Path) -> Path:
    """A copy of a model whose card says that its energies are of another kind."""
    copied = parent / model.name
    shutil.copytree(model, copied)
    edit_card(copied, "energy_kind: total", f"energy_kind: {kind}")
    return copied


@pytest.mark.slow
def test_adsorption_energies_are_not_learned_from_a_model_of_total_energies(
    model: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(model, data)
    about = recipe.about.model_copy(update={"energy_kind": EnergyKind.ADSORPTION})
    samples = samples_of(recipe, tmp_path / "data")
    with pytest.raises(EnergyKindError, match="gives total energies and the recipe has adsorption"):
        start_training(recipe.model_copy(update={"about": about}), samples)


@pytest.mark.slow
def test_zeros_of_adsorption_energies_are_held(model: Path, data: Path, tmp_path: Path) -> None:
    model = of_kind(model, "adsorption", tmp_path)
    free = recipe_of(model, data).model_copy(
        update={"fitted_references": FittedReferences(elements=("O",))}
    )
    held = free.model_copy(
        update={"about": free.about.model_copy(update={"energy_kind": EnergyKind.ADSORPTION})}
    )
    samples = samples_of(free, tmp_path / "data")
    one = [s for s in samples if s.group == samples[0].group]
    old = load_model(model).potential.model.references

    def moved(recipe: Recipe, some: list[Sample]) -> float:
        return float((start_training(recipe, some).model.references - old).norm())

    # one relaxation is little to go by
    assert moved(held, one) == pytest.approx(moved(free, one) / (FineTuning().reference_hold + 1))
    assert moved(held, one) < moved(held, samples)
    again = [s for s in one for _ in range(5)]
    assert moved(held, again) == pytest.approx(moved(held, one))  # its frames are not independent


@pytest.mark.slow
def test_relaxed_structures_without_forces_are_labeled_by_a_teacher(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relaxed = []
    for frame in relaxations(6, n_frames=1):
        copy = frame.copy()
        copy.calc = SinglePointCalculator(copy, energy=frame.calc.results["energy"])
        relaxed.append(copy)
    write("relaxed.traj", relaxed)
    words = ["train", "relaxed.traj", "--from", str(model), "--out", "runs/mine", "--device", "cpu"]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 1
    assert "has an energy and forces" in told.output
    chosen = [*words, "--teacher", str(model), "--set", "training.steps=2"]
    told = CliRunner().invoke(main, chosen)
    assert told.exit_code == 0, told.output
    (labels,) = (tmp_path / "runs" / "data").glob("labels-*.extxyz")
    parents = {atoms.info["parent"] for atoms in read(labels, ":")}
    assert parents == {atoms.info["sid"] for atoms in relaxed}
    written = labels.stat().st_mtime_ns
    told = CliRunner().invoke(main, [*chosen, "--resume"])
    assert told.exit_code == 0, told.output
    assert labels.stat().st_mtime_ns == written


def test_a_model_of_relaxed_energies_cannot_be_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="faenet-is2re cannot be a teacher"):
        labels_of(write_data(tmp_path / "d.traj"), "faenet-is2re", tmp_path)


def test_a_teacher_needs_a_file_and_a_model(tmp_path: Path) -> None:
    told = CliRunner().invoke(
        main, ["train", "recipe.yaml", "--from", "faenet-sfa", "--teacher", "x"]
    )
    assert told.exit_code == 1
    assert "in place of a recipe" in told.output
    told = CliRunner().invoke(main, ["train", "my.traj", "--teacher", "faenet-sfa"])
    assert told.exit_code == 1
    assert "the model with --from" in told.output


@pytest.mark.slow
def test_the_command_says_what_was_gained(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        str(data),
        "--from",
        str(model),
        "--out",
        "runs/mine",
        "--device",
        "cpu",
        "--set",
        "training.steps=80",
    ]
    told = CliRunner().invoke(main, [*words, "--set", "training.learning_rate=0.003"])
    assert told.exit_code == 0, told.output
    assert "held-out structures" in told.output
    assert "before     after" in told.output
    measured = json.loads((tmp_path / "runs" / "mine" / "metrics.json").read_text())
    (before,), (after,) = measured["before"].values(), measured["validation"].values()
    assert after["force_mae"] < before["force_mae"]
    assert before["energy_mae"] < 2.0  # the levels are 50 eV apart
    told = CliRunner().invoke(
        main, ["register", "runs/mine", "--name", "mine", "--folder", "models"]
    )
    assert told.exit_code == 0, told.output
    frame = shifted(relaxations(1))[0]
    tuned = load_model(tmp_path / "models" / "mine")
    assert tuned.card.energy_kind == "total"
    wanted = frame.get_potential_energy()
    assert GeoCalc(tmp_path / "models" / "mine").get_potential_energy(frame) == pytest.approx(
        wanted, abs=2.0
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(model: Path, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(model, data, steps=6, checkpoint_every=1)
    whole = train(recipe, tmp_path / "whole", tmp_path / "data", cpu_fabric())
    part = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"max_seconds": 1e-9})}
    )
    for _ in range(6):
        train(part, tmp_path / "parts", tmp_path / "data", cpu_fabric())
    states = [
        next((run / "checkpoint").glob("state-6.safetensors")).read_bytes()
        for run in (whole, tmp_path / "parts")
    ]
    assert states[0] == states[1]
    metrics = [
        json.loads((run / "metrics.json").read_text()) for run in (whole, tmp_path / "parts")
    ]
    assert metrics[0] == metrics[1]
    assert set(metrics[0]) == {"validation", "steps", "before"}


def test_frozen_parts_stay(model: Path, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(model, data, steps=3, freeze=["embedding", "blocks.0.edge"])
    run = train(recipe, tmp_path / "run", tmp_path / "data", cpu_fabric())
    tuned = load_model(
        register_model(run, "frozen", tmp_path / "models", tmp_path / "data")
    ).potential.model.network
    old = dict(load_model(model).potential.model.network.named_parameters())
    changed = {
        name
        for name, value in tuned.named_parameters()
        if not torch.allclose(value, old[name], rtol=1e-5, atol=1e-7)
    }
    assert changed
    assert not any(name.startswith(("embedding.", "blocks.0.edge.")) for name in changed)
    with pytest.raises(
        RecipeError, match="names 'nose', which the network does not have; its parts: blocks, "
    ):
        start_training(
            recipe_of(model, data, freeze=["nose"]), samples_of(recipe, tmp_path / "data")
        )


def test_what_was_frozen_in_training_stays_so(model: Path, data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "frozen")
    values = read_yaml(folder / "recipe.yaml")
    values["training"]["freeze"] = ["embedding"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert tuned_values(str(folder), data)["training"]["freeze"] == ["embedding"]
    assert "embedding" not in tuned_values(str(model), data)["training"].get("freeze", [])


def test_little_data_is_said_to_be_little(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.extxyz"
    write(path, shifted(relaxations(5)))
    recipe = recipe_of(model, path)
    assert recipe.start is not None
    with pytest.warns(DataWarning, match=r"there are \d+ frames of \d relaxations to learn from"):
        begin_with(recipe, recipe.start, samples_of(recipe, tmp_path / "data"))


@pytest.mark.slow
def test_steps_grow_with_the_data_and_few_energies_move_the_references_alone(
    model: Path, tmp_path: Path
) -> None:
    found = {}
    for n in (2, 12, 40):
        path = tmp_path / f"{n}.extxyz"
        write(path, shifted(relaxations(n)))
        found[n] = tuned_values(str(model), path)["training"]
    n_frames = len(relaxations(40))
    assert (
        found[2]["steps"]
        == FineTuning().min_steps
        < found[40]["steps"]
        == FineTuning().passes * n_frames // TRAINING["batch_size"]
    )
    assert [found[n].get("energy_weight", 1.0) for n in (2, 12, 40)] == [0.0, 1.0, 1.0]


def test_two_relaxations_are_enough_to_split(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.extxyz"
    for seed in range(6):  # names of groups differ, so salts do
        frames = shifted(relaxations(2))
        for frame in frames:
            frame.info["sid"] = f"{seed}-{frame.info['sid']}"
        write(path, frames)
        samples = read_store(prepare_store(recipe_of(model, path), tmp_path / f"data-{seed}"))
        assert {s.validation for s in samples} == {True, False}


def test_another_network_or_a_changed_model_is_refused(
    model: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(model, data)
    samples = samples_of(recipe, tmp_path / "data")
    assert recipe.start is not None
    wider = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"repulsion_reach": 0.5})}
    )
    with pytest.raises(RecipeError, match=r"model.repulsion_reach is not that of base"):
        start_training(wider, samples)
    with pytest.raises(InputError, match="it was changed, so start anew"):
        begin_with(recipe, recipe.start.model_copy(update={"hash": "0" * 16}), samples)
