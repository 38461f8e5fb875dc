"""Runs that end when validation no longer gets better, and the weights that they stand for."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

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
from geocalc.data.store import read_store
from geocalc.errors import ModelFileError
from geocalc.train import loop
from geocalc.train import task as energies
from geocalc.train.loop import Evaluation
from geocalc.train.register import register_model
from geocalc.train.run import start_training
from geocalc.train.run_files import read_log
from geocalc.train.score import mean_error, validation_error
from geocalc.train.stopping import best_evaluation, is_over
from geocalc.train.task import train

CURVE = (5.0, 3.0, 4.0, 3.5, 2.0, 2.5, 2.5, 2.5)


def log_of(errors: list[float]) -> list[dict]:
    """What a run with patience leaves."""
    log: list[dict] = [{"step": 0, "validation": {}}]
    for k, error in enumerate(errors, start=1):
        kept = best_evaluation(log).is_beaten_by(error)
        log += [{"step": 10 * k, "energy": 1.0}, {"step": 10 * k, "error": error, "kept": kept}]
    return log


@pytest.mark.parametrize(
    ("errors", "step", "since"),
    [
        ([], None, 0),
        ([2.0], 10, 0),
        ([2.0, 2.0], 10, 1),
        ([5, 3, 4, 3.5], 20, 2),
        ([float("nan"), 1.0, float("nan")], 20, 1),
    ],
)
def test_the_log_tells_how_it_stands(errors, step, since):
    found = best_evaluation(log_of(errors))
    assert (found.step, found.since) == (step, since)


def test_patience_ends_after_as_many_evaluations_without_a_smaller_error():
    over = [is_over(log_of(list(CURVE[:k])), 2) for k in range(len(CURVE) + 1)]
    assert over == [False, False, False, False, True, False, False, True, True]
    assert not is_over(log_of([1.0, 2.0, 3.0]), None)


def test_logs_from_before_patience_was_asked_for_do_not_count():
    log = [{"step": k, "error": 1.0, "kept": False} for k in (1, 2, 3)]
    assert not is_over(log, 1)
    assert best_evaluation(log).is_beaten_by(7.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "d.traj", relaxations(10))


@pytest.fixture
def curve(monkeypatch):
    """Validation errors as in CURVE, whatever the network says."""
    errors = itertools.chain(CURVE, itertools.repeat(CURVE[-1]))
    monkeypatch.setattr(energies, "validation_error", lambda *given: next(errors))


def recipe_for(data: Path, **training):
    return make_recipe(
        data, **{"steps": 40, "evaluate_every": 2, "checkpoint_every": 3, "patience": 3} | training
    )


def best_files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoint").glob("best-*"))


@pytest.mark.slow
def test_a_run_ends_early_and_its_best_weights_are_registered(tmp_path, data, curve):
    told: list[Evaluation] = []
    run = train(
        recipe_for(data), tmp_path / "run", tmp_path / "data", cpu_fabric(), judge=told.append
    )
    assert [one.error for one in told] == list(CURVE)
    assert [one.step for one in told if one.kept] == [2, 4, 10]
    assert best_files(run) == ["best-10.safetensors"]
    assert json.loads((run / "checkpoint" / "state.json").read_text())["step"] == 16

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    train(recipe_for(data), run, tmp_path / "data", cpu_fabric())  # what has ended stays as it is
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    target = register_model(run, "early", tmp_path / "models", tmp_path / "data")
    best, shipped = (
        load_file(run / "checkpoint" / "best-10.safetensors"),
        load_file(target / "weights.safetensors"),
    )
    assert best.keys() == shipped.keys()
    assert all(torch.equal(best[name], shipped[name]) for name in best)
    (run / "checkpoint" / "best-10.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelFileError, match=r"cannot read the checkpoint .*best-10"):
        register_model(run, "again", tmp_path / "models", tmp_path / "data")


def test_metrics_are_those_of_the_best_weights(tmp_path, data, curve):
    run = train(recipe_for(data), tmp_path / "run", tmp_path / "data", cpu_fabric())
    (at_best,) = (entry for entry in read_log(run) if entry.get("kept") and entry["step"] == 10)
    assert json.loads((run / "metrics.json").read_text())["validation"] == at_best["validation"]
    assert json.loads((run / "metrics.json").read_text())["steps"] == 16


@pytest.mark.slow
def test_a_run_with_patience_stopped_anywhere_and_resumed_is_the_undisturbed_one(tmp_path, data):
    # so that it gets worse
    options = {
        "learning_rate": 0.05,
        "ema_decay": 0.0,
        "patience": 2,
        "evaluate_every": 1,
        "seed": 3,
    }
    whole = train(recipe_for(data, **options), tmp_path / "whole", tmp_path / "data", cpu_fabric())
    ended = json.loads((whole / "checkpoint" / "state.json").read_text())["step"]
    assert 2 < ended < 40
    broken = tmp_path / "broken"
    for _ in range(ended):
        train(
            recipe_for(data, **options, max_seconds=1e-9), broken, tmp_path / "data", cpu_fabric()
        )
    assert best_files(broken) == best_files(whole)
    for path in (whole / "checkpoint").glob("*.safetensors"):
        assert path.read_bytes() == (broken / "checkpoint" / path.name).read_bytes()
    assert (whole / "metrics.json").read_text() == (broken / "metrics.json").read_text()


def test_a_kill_before_the_checkpoint_that_knows_of_it_leaves_the_best_weights_before(
    tmp_path, data, curve, monkeypatch
):
    save = loop.save_checkpoint

    def die(folder, step, *rest):
        if step == 12:
            raise KeyboardInterrupt
        save(folder, step, *rest)

    monkeypatch.setattr(loop, "save_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        train(recipe_for(data), tmp_path / "run", tmp_path / "data", cpu_fabric())
    assert best_files(tmp_path / "run") == ["best-10.safetensors", "best-4.safetensors"]


@pytest.mark.slow
def test_more_patience_goes_on_with_a_run_that_had_ended(tmp_path, data, curve):
    run = train(recipe_for(data), tmp_path / "run", tmp_path / "data", cpu_fabric())
    train(recipe_for(data, patience=5), run, tmp_path / "data", cpu_fabric())
    assert json.loads((run / "checkpoint" / "state.json").read_text())["step"] == 20


@pytest.mark.slow
def test_the_command_says_why_it_ended(tmp_path, data, curve):
    values = recipe_values(data, steps=40, evaluate_every=2, patience=3)
    recipe = write_recipe(tmp_path / "r.yaml", values)
    done = CliRunner().invoke(
        main, ["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]
    )
    torch.set_flush_denormal(False)
    assert done.exit_code == 0, done.output
    assert "done after 16 of 40 steps, since 3 evaluations brought no smaller error" in done.output


def test_the_validation_error_is_in_the_units_of_the_loss(tmp_path, data):
    recipe = make_recipe(data, energy_weight=2.0, force_weight=3.0)
    model = start_training(recipe, read_store(prepare_store(recipe, tmp_path)).training).model
    model.energy_scale, model.force_scale = 4.0, 4.0
    errors = {
        "a": {"n": 30, "energy_mae": 0.1, "force_mae": 0.2},
        "b": {"n": 10, "energy_mae": 0.5, "force_mae": 0.6},
    }
    assert mean_error(errors, "energy_mae") == pytest.approx(0.2)
    assert validation_error(errors, recipe, model) == pytest.approx((2.0 * 0.2 + 3.0 * 0.3) / 4.0)
