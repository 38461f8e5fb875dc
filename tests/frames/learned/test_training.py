"""Canonicalizers in training: trained or kept as drawn, resumed, stored with the model, and refused
where nothing would use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.io import write
from helpers.structures import adslab, rattled, systems_of
from helpers.training import cpu_fabric, recipe_values, relaxations, write_data
from safetensors.torch import load_file

from geocalc.data.prepare import prepare_store
from geocalc.data.store import read_store
from geocalc.errors import InputError, ModelFileError, RecipeError
from geocalc.frames.learned import CANONICALIZERS
from geocalc.potentials.load import load_model
from geocalc.potentials.network import NetworkPotential
from geocalc.potentials.registry import read_card, write_card
from geocalc.train.checkpoint import load_checkpoint
from geocalc.train.finetune import tuned_values
from geocalc.train.loader import batch_loader
from geocalc.train.recipe import Recipe, parse_recipe, single_frame
from geocalc.train.register import register_model
from geocalc.train.run import start_training
from geocalc.train.score import score
from geocalc.train.steps import update
from geocalc.train.task import train

CHOICE = {"name": "vn-pointnet", "width": 12, "reach": 3.5}
LEARNED = {"frames": "learned"}
SAME = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "d.traj", relaxations(6))


def values_of(data: Path, model: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    values = recipe_values(
        data, **{"steps": 4, "learning_rate": 0.01, "evaluate_every": 4, **LEARNED, **training}
    )
    values["model"] |= {"canonicalizer": CHOICE, **LEARNED, **(model or {})}
    return values


def recipe_of(data: Path, model: dict[str, Any] | None = None, **training: Any) -> Recipe:
    return parse_recipe(values_of(data, model, **training), "test")


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(next((run / "checkpoint").glob("state-*.safetensors")))


def canonicalizer_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith("canonicalizer.")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CANONICALIZERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_moves_every_weight_of_a_canonicalizer_unless_it_is_frozen(
    name: str, frozen: bool, data: Path, tmp_path: Path
) -> None:
    choice = {"name": name} | ({} if name == "signnet-mlp" else {"width": 9})
    recipe = recipe_of(data, {"canonicalizer": choice}, freeze=["canonicalizer"] if frozen else [])
    samples = read_store(prepare_store(recipe, tmp_path))
    run = start_training(recipe, samples.training)
    before = {key: value.clone() for key, value in run.model.network.state_dict().items()}
    loader = batch_loader(samples, recipe, run.model, cpu_fabric())
    for step in range(2):
        assert update(run, loader.batch(step), recipe, step, cpu_fabric()).total.isfinite()
    same = {
        key
        for key, value in run.model.network.state_dict().items()
        if torch.equal(value, before[key])
    }
    assert same & set(canonicalizer_of(before)) == (
        set(canonicalizer_of(before)) if frozen else set()
    )
    assert any(not key.startswith("canonicalizer.") and key not in same for key in before)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [[], ["canonicalizer"]])
def test_a_run_in_pieces_equals_a_whole_one_and_becomes_a_model(
    freeze: list[str], data: Path, tmp_path: Path
) -> None:
    recipe, prepared = recipe_of(data, freeze=freeze), tmp_path / "data"
    whole = train(recipe, tmp_path / "whole", prepared, cpu_fabric())
    for _ in range(2):
        train(
            recipe_of(data, freeze=freeze, max_seconds=1e-6),
            tmp_path / "pieces",
            prepared,
            cpu_fabric(),
        )
    pieces = train(recipe, tmp_path / "pieces", prepared, cpu_fabric())
    expected, found = tensors_of(whole), tensors_of(pieces)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())

    folder = register_model(whole, "mine", tmp_path / "models", prepared)
    assert read_card(folder).canonicalizer == CHOICE
    assert read_card(folder).frames == "learned"
    loaded = load_model(folder, device="cpu")
    finished = start_training(recipe, read_store(prepare_store(recipe, prepared)).training)
    first = {
        key: value.clone()
        for key, value in canonicalizer_of(finished.model.network.state_dict()).items()
    }
    stored = canonicalizer_of(load_file(folder / "weights.safetensors"))
    assert stored.keys() == first.keys()
    assert all(torch.equal(first[key], value) for key, value in stored.items()) is bool(freeze)

    load_checkpoint(
        whole / "checkpoint", finished.model.network, finished.optimizer, finished.average
    )
    own = NetworkPotential(model=finished.averaged(), policy=single_frame(recipe.model))
    structures = systems_of(
        *(rattled(adslab("O", "fcc", size=(2, 2, 2)), 0.1, seed) for seed in range(2))
    )
    torch.testing.assert_close(loaded(structures).energy, own(structures).energy, **SAME)
    torch.testing.assert_close(loaded(structures).forces, own(structures).forces, **SAME)
    assert not loaded(structures).frame_degenerate.any()


def test_relaxed_energies_and_positions_are_learnt_with_learned_frames(tmp_path: Path) -> None:
    ends = relaxations(8)
    files = [tmp_path / "start.extxyz", tmp_path / "end.extxyz"]
    for file, frames in zip(files, (ends[::3], ends[2::3]), strict=True):
        write(file, frames)
    model = {
        "force_mode": "none",
        "settings": {**recipe_values(files[0])["model"]["settings"], "direct_forces": True},
    }
    values = values_of(files[0], model, force_weight=0.0, displacement_weight=0.5)
    values["task"] = "is2re"
    values["data"]["sources"][0]["relaxed"] = str(files[1])
    run = train(parse_recipe(values, "test"), tmp_path / "run", tmp_path / "data", cpu_fabric())
    assert all(value.isfinite().all() for value in tensors_of(run).values())


def test_errors_are_those_with_the_learned_frames(data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(data)
    samples = read_store(prepare_store(recipe, tmp_path))
    model = start_training(recipe, samples.training).model.eval()
    errors = score(model, recipe, samples.held_out, torch.device("cpu"))[str(data)]
    with torch.no_grad():
        for weight in model.network.canonicalizer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    assert (
        score(model, recipe, samples.held_out, torch.device("cpu"))[str(data)]["force_mae"]
        != errors["force_mae"]
    )


@pytest.mark.filterwarnings("ignore::geocalc.errors.DataWarning")
def test_a_model_with_a_canonicalizer_is_fine_tuned_as_a_whole(data: Path, tmp_path: Path) -> None:
    run = train(recipe_of(data), tmp_path / "run", tmp_path / "data", cpu_fabric())
    folder = register_model(run, "mine", tmp_path / "models", tmp_path / "data")
    values = tuned_values(str(folder), data)
    values["training"]["steps"] = 1
    recipe = parse_recipe(values, "test")
    begun = start_training(recipe, read_store(prepare_store(recipe, tmp_path / "data")).training)
    stored = canonicalizer_of(load_file(folder / "weights.safetensors"))
    assert stored
    assert all(
        torch.equal(value, begun.model.network.state_dict()[key]) for key, value in stored.items()
    )
    values["model"]["canonicalizer"] = {**CHOICE, "width": 15}
    with pytest.raises(RecipeError, match=r"model\.canonicalizer is not that of mine"):
        start_training(
            parse_recipe(values, "test"),
            read_store(prepare_store(recipe, tmp_path / "data")).training,
        )


def test_runs_with_canonicalizers_become_no_ensemble(data: Path, tmp_path: Path) -> None:
    runs = [
        train(recipe_of(data, steps=1, seed=k), tmp_path / f"{k}", tmp_path / "data", cpu_fabric())
        for k in range(2)
    ]
    with pytest.raises(
        InputError,
        match="has a canonicalizer of its own, and an ensemble has one frame for all its networks",
    ):
        register_model(runs, "mine", tmp_path / "models", tmp_path / "data")
    folder = register_model(runs[0], "mine", tmp_path / "models", tmp_path / "data")
    card = read_card(folder)
    for change, sentence in (
        ({"members": 2}, "networks of an ensemble share their frames"),
        ({"canonicalizer": {"name": "vn-pointnett"}}, "did you mean `vn-pointnet`"),
        ({"canonicalizer": {**CHOICE, "width": 15}}, "do not fit its card"),
    ):
        write_card(folder, card.model_copy(update=change))
        with pytest.raises(ModelFileError, match=sentence):
            load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("model", "training", "sentence"),
    [
        (
            {"canonicalizer": None, "frames": "averaged"},
            {},
            "`training.frames: learned` needs a canonicalizer; set model.canonicalizer",
        ),
        (
            {"canonicalizer": None},
            {"frames": "single"},
            "`model.frames: learned` needs a canonicalizer",
        ),
        (
            {"frames": "averaged"},
            {},
            "there is a canonicalizer, but model.frames is 'averaged'; set model.frames: learned",
        ),
        (
            {},
            {"frames": "rotations-2d"},
            "training.frames is 'rotations-2d', so the canonicalizer would learn nothing",
        ),
        (
            {"canonicalizer": {"name": "vn-pointnett"}},
            {},
            "no canonicalizer with weights is called 'vn-pointnett'; did you mean `vn-pointnet`",
        ),
        (
            {"canonicalizer": {"width": 12}},
            {},
            "no canonicalizer with weights is called None; did you mean",
        ),
        (
            {"canonicalizer": {**CHOICE, "wdth": 12}},
            {},
            "unknown key `wdth`; did you mean `width`?",
        ),
        ({"canonicalizer": {**CHOICE, "reach": 0}}, {}, "`reach` is 0"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    model: dict[str, Any], training: dict[str, Any], sentence: str, data: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(data, model, **training)
    assert sentence in str(caught.value)


def test_a_canonicalizer_as_drawn_needs_no_learned_frames_in_training(data: Path) -> None:
    assert (
        recipe_of(data, frames="rotations-2d", freeze=["canonicalizer"]).model.frames == "learned"
    )
