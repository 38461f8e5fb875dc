"""Two real processes share every step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from structures import adslab, rattled
from training import labelled, recipe_values, relaxation, write_data, write_recipe

from geocalc.train.run_files import read_log

COMMAND = "from geocalc.cli import main\nmain()\n"


def trained(recipe: Path, out: Path, *options: str) -> Path:
    """A run of the command, from a file, since the second process is started as the first was."""
    script = recipe.with_name("train.py")
    script.write_text(COMMAND)
    words = ["train", str(recipe), "--out", str(out), "--device", "cpu", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, check=False, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return out


def test_two_processes_learn_what_one_does(tmp_path):
    frames = [frame for k in range(6) for frame in relaxation(f"r{k}", seed=k)]
    frames += [labelled(rattled(adslab("O", "fcc", size=(3, 3, 3)), 0.05, k), sid=f"large{k}") for k in range(6)]
    data = write_data(tmp_path / "d.traj", frames)
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(data, steps=4, patience=1, evaluate_every=2))
    one, two = trained(recipe, tmp_path / "one"), trained(recipe, tmp_path / "two", "--devices", "2")
    losses = [[(entry["energy"], entry["vectors"]) for entry in read_log(run) if "energy" in entry] for run in (one, two)]
    assert losses[1] == [pytest.approx(pair, rel=1e-4) for pair in losses[0]]
    weights = [load_file(next((run / "checkpoint").glob("state-*.safetensors"))) for run in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-3)
