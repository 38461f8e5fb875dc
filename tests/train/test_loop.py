from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.training import (
    cpu_fabric,
    make_recipe,
    recipe_values,
    relaxations,
    write_data,
    write_recipe,
)
from safetensors.torch import load_file

from geocalc.cli.main import main
from geocalc.data.prepare import prepare_store
from geocalc.data.store import Samples, read_store
from geocalc.errors import InputError, ModelFileError, NonFiniteError, RecipeError, RunFolderError
from geocalc.train import loop
from geocalc.train import task as energies
from geocalc.train.checkpoint import load_checkpoint, save_checkpoint, steps_done
from geocalc.train.ema import WeightAverage
from geocalc.train.loader import Batch, batch_loader
from geocalc.train.recipe import Recipe
from geocalc.train.run import Run, start_training
from geocalc.train.run_files import append_log, read_log, trim_log
from geocalc.train.score import score
from geocalc.train.steps import update
from geocalc.train.task import train

KILLED = """
import os, signal
from geocalc.train import task as energies
update = energies.update
def update_or_die(run, batch, recipe, step, fabric):
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(run, batch, recipe, step, fabric)
energies.update = update_or_die
from geocalc.cli.main import main
main({arguments})
"""


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_flush_denormal(False)  # what `geocalc train` sets for its process


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "d.traj", relaxations(10))


def parsed(data: Path, model: dict | None = None, **training) -> Recipe:
    values = recipe_values(data, **training)
    values["model"]["settings"] |= (model or {}).pop("settings", {}) if model else {}
    values["model"] |= model or {}
    return Recipe.parse(values, "test")


def run_of(recipe: Recipe, tmp_path: Path) -> tuple[Run, Samples]:
    samples = read_store(prepare_store(recipe, tmp_path / "data"))
    return start_training(recipe, samples.training), samples


def first_batch(run: Run, samples: Samples, recipe: Recipe) -> Batch:
    return batch_loader(samples, recipe, run.model, cpu_fabric()).batch(0)


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    (path,) = (run / "checkpoint").glob("state-*.safetensors")
    return load_file(path)


def steps_logged(run: Path) -> list[int]:
    return [entry["step"] for entry in read_log(run) if "energy" in entry]


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def errors_without_time(run: Path) -> list[dict]:
    return [
        {k: v for k, v in entry.items() if k not in ("seconds", "done_here")}
        for entry in read_log(run)
    ]


# resuming


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_killed_in_the_middle_and_resumed_equals_the_uninterrupted_one(
    tmp_path, data, optimizer
):
    values = recipe_values(data, optimizer=optimizer)
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = invoke("train", recipe, "--out", whole, "--device", "cpu")
    assert done.exit_code == 0, done.output
    code = KILLED.format(
        step=8, arguments=["train", str(recipe), "--out", str(broken), "--device", "cpu"]
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert steps_done(broken / "checkpoint") == 6
    assert steps_logged(broken) == [1, 2, 3, 4, 5, 6, 7, 8]  # two more than the checkpoint knows
    with (broken / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "ste')  # and a line that the kill cut short

    refused = invoke("train", recipe, "--out", broken, "--device", "cpu")
    assert refused.exit_code == 1
    assert "holds a training run already; continue with --resume" in refused.output
    resumed = invoke("train", recipe, "--out", broken, "--device", "cpu", "--resume")
    assert resumed.exit_code == 0, resumed.output

    expected, found = tensors_of(whole), tensors_of(broken)
    assert expected.keys() == found.keys()
    assert {name.split(".")[0] for name in found} == {"weights", "average", "optimizer"}
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert steps_logged(broken) == list(range(1, 13))
    assert errors_without_time(broken) == errors_without_time(whole)
    assert (broken / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    for run in (whole, broken):
        assert (run / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
        assert {p.name for p in run.iterdir()} == {
            "checkpoint",
            "learning-curve.png",
            "log.jsonl",
            "metrics.json",
            "recipe.yaml",
        }
        assert {p.name for p in (run / "checkpoint").iterdir()} == {
            "state.json",
            "state-12.safetensors",
        }


@pytest.mark.slow
def test_a_kill_while_the_checkpoint_is_written_leaves_the_one_before(tmp_path, data, monkeypatch):
    recipe = parsed(data)
    whole = train(recipe, tmp_path / "whole", tmp_path / "data", cpu_fabric())

    def die(path, parts):
        raise KeyboardInterrupt  # between the tensors and the counters

    folder = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(
            "geocalc.train.checkpoint.write_atomically",
            lambda path, parts: path.write_text("".join(parts)),
        )
        original = save_checkpoint

        def save_or_die(place, step, *rest):
            if step == 9:
                patch.setattr("geocalc.train.checkpoint.write_atomically", die)
            original(place, step, *rest)

        patch.setattr(loop, "save_checkpoint", save_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder, tmp_path / "data", cpu_fabric())
    assert steps_done(folder / "checkpoint") == 6
    assert (folder / "checkpoint" / "state-9.safetensors").exists()
    train(recipe, folder, tmp_path / "data", cpu_fabric())
    assert all(
        torch.equal(tensor, tensors_of(folder)[name]) for name, tensor in tensors_of(whole).items()
    )


@pytest.mark.slow
def test_a_run_stopped_by_its_clock_goes_on_as_if_nothing_had_happened(tmp_path, data):
    whole = train(parsed(data), tmp_path / "whole", tmp_path / "data", cpu_fabric())
    pieces = tmp_path / "pieces"
    for expected in (1, 2, 3):
        train(parsed(data, max_seconds=1e-6), pieces, tmp_path / "data", cpu_fabric())
        assert steps_done(pieces / "checkpoint") == expected
        assert not (pieces / "metrics.json").exists()
    train(parsed(data), pieces, tmp_path / "data", cpu_fabric())
    assert all(
        torch.equal(tensor, tensors_of(pieces)[name]) for name, tensor in tensors_of(whole).items()
    )


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(tmp_path, data):
    run = train(parsed(data, steps=3), tmp_path / "run", tmp_path / "data", cpu_fabric())
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    train(parsed(data, steps=3), run, tmp_path / "data", cpu_fabric())
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_the_weights_do_not_depend_on_what_was_drawn_before(tmp_path, data):
    one = train(parsed(data, steps=3), tmp_path / "one", tmp_path / "data", cpu_fabric())
    torch.rand(10)
    np.random.default_rng().random()
    two = train(parsed(data, steps=3), tmp_path / "two", tmp_path / "data", cpu_fabric())
    assert all(
        torch.equal(tensor, tensors_of(two)[name]) for name, tensor in tensors_of(one).items()
    )
    other = train(
        parsed(data, steps=3, seed=5), tmp_path / "other", tmp_path / "data", cpu_fabric()
    )
    assert any(
        not torch.equal(tensor, tensors_of(other)[name]) for name, tensor in tensors_of(one).items()
    )


@pytest.mark.parametrize(
    ("part", "entries"),
    [
        ("model", {"repulsion_reach": 0.5}),
        ("data", {"max_force": 5.0}),
        ("fitted_references", {"elements": ["O"]}),
    ],
)
def test_a_run_of_another_recipe_is_not_continued(tmp_path, data, part, entries):
    run = train(parsed(data, steps=3), tmp_path / "run", tmp_path / "data", cpu_fabric())
    values = recipe_values(data, steps=6)
    values[part] = values.get(part, {}) | entries
    with pytest.raises(RecipeError, match=rf"holds a run with another `{part}` in its recipe"):
        train(Recipe.parse(values, "test"), run, tmp_path / "data", cpu_fabric())
    assert steps_done(run / "checkpoint") == 3


def test_the_optimization_may_change_between_pieces(tmp_path, data):
    run = train(parsed(data, steps=3), tmp_path / "run", tmp_path / "data", cpu_fabric())
    train(parsed(data, steps=5, learning_rate=1e-4), run, tmp_path / "data", cpu_fabric())
    assert steps_done(run / "checkpoint") == 5
    assert steps_logged(run) == [1, 2, 3, 4, 5]


def test_a_damaged_checkpoint_is_one_sentence(tmp_path, data):
    run = train(parsed(data, steps=3), tmp_path / "run", tmp_path / "data", cpu_fabric())
    state = run / "checkpoint" / "state-3.safetensors"
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match=r"cannot read the checkpoint .*state-3.safetensors"):
        train(parsed(data, steps=5), run, tmp_path / "data", cpu_fabric())
    (run / "checkpoint" / "state.json").write_text("{")
    with pytest.raises(ModelFileError, match=r"state.json is damaged"):
        train(parsed(data, steps=5), run, tmp_path / "data", cpu_fabric())


def test_a_checkpoint_of_another_network_is_one_sentence(tmp_path, data):
    recipe = parsed(data)
    run, _ = run_of(recipe, tmp_path)
    save_checkpoint(tmp_path / "c", 1, run.model.network, run.optimizer, run.average)
    other, _ = run_of(parsed(data, model={"settings": {"num_interactions": 2}}), tmp_path)
    with pytest.raises(ModelFileError, match="is of another network"):
        load_checkpoint(tmp_path / "c", other.model.network, other.optimizer, other.average)


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(tmp_path, data):
    run, _ = run_of(parsed(data), tmp_path)
    (tmp_path / "c").write_text("a file where a folder should be")
    with pytest.raises(RunFolderError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "c", 1, run.model.network, run.optimizer, run.average)


def test_the_log_is_cut_after_the_checkpoint(tmp_path):
    for step in (1, 2, 3, 4):
        append_log(tmp_path, {"step": step})
    trim_log(tmp_path, 2)
    assert [entry["step"] for entry in read_log(tmp_path)] == [1, 2]
    trim_log(tmp_path, 0)
    assert read_log(tmp_path) == []
    trim_log(tmp_path / "nothing", 3)
    assert not (tmp_path / "nothing").exists()


# what can go wrong


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_anything(
    tmp_path, data, monkeypatch
):
    def with_nan(run, batch, recipe, step, fabric):
        if step == 7:
            (part,) = batch
            batch = (
                replace(
                    part, labels=replace(part.labels, energy=part.labels.energy * float("inf"))
                ),
            )
        return update(run, batch, recipe, step, fabric)

    whole = train(parsed(data), tmp_path / "whole", tmp_path / "data", cpu_fabric())
    with monkeypatch.context() as patch:
        patch.setattr(energies, "update", with_nan)
        with pytest.raises(
            NonFiniteError,
            match=r"the loss is inf at step 7; .*--resume and a lower training.learning_rate",
        ):
            train(parsed(data), tmp_path / "run", tmp_path / "data", cpu_fabric())
    assert steps_done(tmp_path / "run" / "checkpoint") == 6
    assert all(t.isfinite().all() for t in tensors_of(tmp_path / "run").values())
    run = train(parsed(data), tmp_path / "run", tmp_path / "data", cpu_fabric())
    assert all(
        torch.equal(tensor, tensors_of(run)[name]) for name, tensor in tensors_of(whole).items()
    )


def test_a_gradient_that_is_no_number_does_not_reach_the_weights(tmp_path, data):
    recipe = parsed(data)
    run, samples = run_of(recipe, tmp_path)
    parameter = next(run.model.network.parameters())
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in run.model.network.state_dict().items()}
    with pytest.raises(NonFiniteError, match="the gradient of the loss is"):
        update(run, first_batch(run, samples, recipe), recipe, 0, cpu_fabric())
    assert all(
        torch.equal(before[name], value) for name, value in run.model.network.state_dict().items()
    )
    assert run.average.n_updates == 0


@pytest.mark.parametrize(("share", "empty"), [(1e-9, "validate"), (1 - 1e-9, "train")])
def test_a_split_with_an_empty_side_is_refused(tmp_path, data, share, empty):
    values = recipe_values(data)
    values["data"]["validation_fraction"] = share
    with pytest.raises(
        InputError,
        match=rf"the split leaves no frame to {empty} on \(30 frames of 10 relaxations\)",
    ):
        train(Recipe.parse(values, "test"), tmp_path / "run", tmp_path / "data", cpu_fabric())
    assert not (tmp_path / "run").exists()


# learning


def mean_losses(recipe: Recipe, tmp_path: Path, n_steps: int) -> tuple[float, float]:
    """Total loss of the first and of the last five steps."""
    run, samples = run_of(recipe, tmp_path)
    loader = batch_loader(samples, recipe, run.model, cpu_fabric())
    found = [
        float(update(run, loader.batch(k), recipe, k, cpu_fabric()).total) for k in range(n_steps)
    ]
    return float(np.mean(found[:5])), float(np.mean(found[-5:]))


HEAD = {"settings": {"direct_forces": True}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({}, {}),
        (HEAD | {"force_mode": "direct"}, {"force_weight": 0.0, "direct_force_weight": 5.0}),
        (HEAD, {"gradient_target_weight": 1.0, "direct_force_weight": 1.0}),
        (HEAD, {"force_weight": 0.0, "gradient_target_weight": 0.1}),
    ],
    ids=["gradient", "direct", "gradient target", "energies and target"],
)
def test_training_lowers_the_loss(tmp_path, data, model, training):
    steps = 60
    recipe = parsed(
        data,
        model={**model, "settings": dict(model.get("settings", {}))},
        steps=steps,
        learning_rate=0.01,
        **training,
    )
    first, last = mean_losses(recipe, tmp_path, steps)
    assert last < 0.6 * first


def test_a_direct_force_model_is_trained_scored_and_finished(tmp_path, data):
    recipe = parsed(
        data,
        model={"settings": {"direct_forces": True}, "force_mode": "direct"},
        steps=4,
        force_weight=0.0,
        direct_force_weight=5.0,
    )
    run = train(recipe, tmp_path / "run", tmp_path / "data", cpu_fabric())
    errors = json.loads((run / "metrics.json").read_text())["validation"][str(data)]
    assert errors["force_mae"] > 0
    assert any(name.startswith("weights.force_head") for name in tensors_of(run))


def test_the_rate_warms_up_and_falls_to_zero():
    settings = make_recipe(Path("d"), steps=100, warmup_fraction=0.1, learning_rate=1.0).training
    rates = [settings.rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-3


def test_steps_are_taken_at_the_rate_of_their_number(tmp_path, data):
    recipe = parsed(data, learning_rate=0.5)
    run, samples = run_of(recipe, tmp_path)
    update(run, first_batch(run, samples, recipe), recipe, 9, cpu_fabric())
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(recipe.training.rate_at(9))


FINISH = {"steps": 20, "learning_rate": 0.3, "frames": "single"}


def test_the_finish_has_frames_and_a_falling_rate_of_its_own():
    alone = make_recipe(Path("d"), steps=80, learning_rate=0.5).training
    settings = make_recipe(
        Path("d"), steps=100, learning_rate=0.5, frames="rotations-2d", final_stage=FINISH
    ).training
    assert [settings.rate_at(step) for step in range(80)] == [
        alone.rate_at(step) for step in range(80)
    ]
    rates = [settings.rate_at(step) for step in range(80, 100)]
    assert rates[0] == 0.3
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert 0 < rates[-1] < 0.003
    assert [settings.frames_at(step) for step in (0, 79, 80, 99)] == [
        "rotations-2d",
        "rotations-2d",
        "single",
        "single",
    ]


@pytest.mark.slow
def test_a_finish_may_be_added_to_a_run_that_has_ended(tmp_path, data):
    finish = {"steps": 3, "learning_rate": 0.001, "frames": "single"}
    whole = train(
        parsed(data, steps=9, final_stage=finish),
        tmp_path / "whole",
        tmp_path / "data",
        cpu_fabric(),
    )
    begun = train(parsed(data, steps=6), tmp_path / "begun", tmp_path / "data", cpu_fabric())
    other = train(parsed(data, steps=9), tmp_path / "other", tmp_path / "data", cpu_fabric())
    train(parsed(data, steps=9, final_stage=finish), begun, tmp_path / "data", cpu_fabric())
    assert all(
        torch.equal(tensor, tensors_of(begun)[name]) for name, tensor in tensors_of(whole).items()
    )
    assert not all(
        torch.equal(tensor, tensors_of(other)[name]) for name, tensor in tensors_of(whole).items()
    )


# the average


def averaged_ramp(run, decay: float, n_updates: int) -> float:
    """What the average says after weights of 0, 1, 2 ... n_updates - 1."""
    average = WeightAverage(run.model.network, decay)
    name, parameter = next(iter(run.model.network.named_parameters()))
    for k in range(n_updates):
        with torch.no_grad():
            parameter.fill_(float(k))
        average.update(run.model.network)
    return float(average.weights()[name].flatten()[0])


def test_the_average_begins_with_the_first_weights(tmp_path, data):
    run, _ = run_of(parsed(data, ema_decay=0.9), tmp_path)
    run.average.update(run.model.network)
    for name, value in run.average.weights().items():
        torch.testing.assert_close(value, dict(run.model.network.named_parameters())[name].detach())


def test_the_average_follows_its_formula(tmp_path, data):
    run, _ = run_of(parsed(data), tmp_path)
    expected = 0.0
    for n in range(200):
        decay = min(0.9, n / (n + 9))
        expected = decay * expected + (1 - decay) * n
    assert averaged_ramp(run, 0.9, 200) == pytest.approx(expected, rel=1e-5)
    assert 199 - expected == pytest.approx(9.0, rel=1e-3)  # 0.9 / (1 - 0.9) updates behind, as ever


def test_the_average_of_a_short_run_is_not_held_back_by_its_beginning(tmp_path, data):
    run, _ = run_of(parsed(data), tmp_path)
    # a decay that remembers a thousand updates would be at 580
    assert averaged_ramp(run, 0.999, 1000) > 850


def test_the_average_is_restored_and_is_what_is_scored(tmp_path, data):
    recipe = parsed(data)
    folder = train(recipe, tmp_path / "run", tmp_path / "data", cpu_fabric())
    run, samples = run_of(recipe, tmp_path)
    assert (
        load_checkpoint(folder / "checkpoint", run.model.network, run.optimizer, run.average) == 12
    )
    assert run.average.n_updates == 12
    held_out = samples.held_out
    own = score(run.model.eval(), recipe, held_out, torch.device("cpu"))
    averaged = score(run.averaged(), recipe, held_out, torch.device("cpu"))
    assert averaged == json.loads((folder / "metrics.json").read_text())["validation"]
    assert averaged != own
    states = run.averaged().network.state_dict()
    assert all(torch.equal(states[name], value) for name, value in run.average.weights().items())


def test_the_environment_is_left_alone(tmp_path, data):
    before = dict(os.environ)
    state = torch.random.get_rng_state()
    train(parsed(data, steps=2), tmp_path / "run", tmp_path / "data", cpu_fabric())
    assert dict(os.environ) == before
    assert torch.equal(torch.random.get_rng_state(), state)
