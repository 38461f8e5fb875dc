from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers.training import recipe_values, relaxations, write_data, write_recipe

from geocalc.cli.main import main
from geocalc.train import tensorboard as scalars


def run(tmp_path: Path, *options: str, **training):
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path / "d.traj", **training))
    done = CliRunner().invoke(
        main, ["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu", *options]
    )
    torch.set_flush_denormal(False)
    return done


def test_without_the_package_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(scalars, "find_spec", lambda name: None)
    write_data(tmp_path / "d.traj", relaxations(10))
    done = run(tmp_path, "--tensorboard")
    assert done.exit_code == 1
    assert (
        done.output == "geocalc: --tensorboard needs tensorboard; install it with: pip install"
        " 'geocalc[tensorboard]'\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.extra("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_learning_curve_is_kept_over_a_resumed_run(tmp_path):
    write_data(tmp_path / "d.traj", relaxations(10))
    for steps, resume in ((6, ()), (12, ("--resume",))):
        done = run(tmp_path, "--tensorboard", *resume, steps=steps)
        assert done.exit_code == 0, done.output
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    tags = found.Tags()["scalars"]
    assert {"loss/energy", "loss/vectors", "learning_rate", "validation/error"} <= set(tags)
    assert any(tag.endswith("/force_mae") for tag in tags)
    assert [event.step for event in found.Scalars("loss/energy")] == list(range(1, 13))
    assert [event.step for event in found.Scalars("validation/error")] == [6, 12]
