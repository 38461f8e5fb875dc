"""The pull of predictions under two random frames towards each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.training import (
    assert_equal_to_rounding,
    cpu_fabric,
    recipe_values,
    relaxations,
    weights_after,
    write_data,
)

from geocalc.data.collate import collate_samples
from geocalc.data.prepare import prepare_store
from geocalc.data.store import read_store
from geocalc.errors import RecipeError
from geocalc.frames.policy import frame_policy
from geocalc.potentials.network import NetworkPotential
from geocalc.train.loader import batch_loader
from geocalc.train.recipe import Recipe, parse_recipe
from geocalc.train.run import start_training
from geocalc.train.steps import update


def recipe_of(folder: Path, **training: Any) -> Recipe:
    data = write_data(folder / "d.traj", relaxations(12))
    chosen = {"batch_size": 8, "frames": "stochastic"} | training
    return parse_recipe(recipe_values(data, **chosen), "test")


@pytest.mark.slow
def test_frames_agree_more_with_it(tmp_path: Path) -> None:
    spreads = []
    for weight in (0.0, 5.0):
        recipe = recipe_of(tmp_path, consistency_weight=weight, learning_rate=0.005, steps=150)
        samples = read_store(prepare_store(recipe, tmp_path / "data"))
        run = start_training(recipe, samples.training)
        loader = batch_loader(samples, recipe, run.model, cpu_fabric())
        for step in range(150):
            update(run, loader.batch(step), recipe, step, cpu_fabric())
        potential = NetworkPotential(model=run.model.eval(), policy=frame_policy("averaged"))
        systems, _ = collate_samples(samples.training[:8])
        spreads.append(float(potential(systems).energy_std.mean()))
    assert spreads[1] < 0.7 * spreads[0]


@pytest.mark.slow
def test_parts_of_a_batch_learn_what_the_whole_does(tmp_path: Path) -> None:
    whole, parts = (
        recipe_of(tmp_path, consistency_weight=1.0, accumulate=accumulate) for accumulate in (1, 3)
    )
    assert_equal_to_rounding(
        *(weights_after(recipe, tmp_path / "data", 3)[0] for recipe in (whole, parts))
    )


@pytest.mark.parametrize("frames", ["none", "single", "averaged"])
def test_it_needs_random_frames(frames: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="consistency_weight compares two random frames"):
        recipe_of(tmp_path, consistency_weight=1.0, frames=frames)
