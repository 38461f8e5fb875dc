"""The learning rate of a property's recipe: that it falls where it is said to, and stays where it
is said to stay.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.glasses import make_recipe, recipe_values, write_glasses, write_recipe
from helpers.training import cpu_fabric

from geocalc.errors import RecipeError
from geocalc.properties.data import read_split
from geocalc.properties.recipe import PropertyTraining, read_property_recipe
from geocalc.properties.task import PropertyTask


def training(**values: Any) -> PropertyTraining:
    return PropertyTraining.parse(values, "test")


def test_without_stages_it_rises_and_falls_along_half_a_cosine_to_nothing() -> None:
    settings = training(steps=1000, learning_rate=2e-3, warmup_fraction=0.1)
    rates = [settings.rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-5)
    assert rates[99] == rates[100] == 2e-3
    assert all(later < earlier for earlier, later in pairwise(rates[100:]))
    assert rates[550] == pytest.approx(1e-3)
    assert rates[-1] < 1e-8


def test_a_constant_stage_stays_and_stairs_fall() -> None:
    stages = [
        {"steps": 30, "learning_rate": 1e-4},
        {"steps": 40, "learning_rate": 1e-3, "decay": "stairs", "every": 10, "factor": 0.3},
        {"steps": 20, "learning_rate": 5e-4, "decay": "cosine"},
    ]
    # the rate outside of stages is not looked at
    settings = training(steps=90, learning_rate=9.0, stages=stages)
    rates = [settings.rate_at(step) for step in range(90)]
    assert set(rates[:30]) == {1e-4}
    for k in range(4):
        assert rates[30 + 10 * k : 40 + 10 * k] == pytest.approx([1e-3 * 0.3**k] * 10, rel=1e-12)
    assert rates[70] == 5e-4
    assert rates[80] == pytest.approx(2.5e-4)
    assert 0 < rates[89] < 5e-4 * math.sin(math.pi / 40) ** 2 * 1.01


def test_stages_by_epochs_as_a_study_had_them() -> None:
    per_epoch = 64  # 320 graphs in batches of five
    stages = [{"steps": per_epoch * n, "learning_rate": 1e-4} for n in (400, 50, 100)]
    stages.append({"steps": per_epoch * 400, "learning_rate": 1e-4, "decay": "cosine"})
    settings = training(steps=950 * per_epoch, batch_size=5, stages=stages)
    assert {settings.rate_at(step) for step in range(0, 550 * per_epoch, 7)} == {1e-4}
    assert settings.rate_at(750 * per_epoch) == pytest.approx(5e-5)
    assert settings.rate_at(950 * per_epoch - 1) < 1e-12


@pytest.mark.parametrize("n", [11, 13])
def test_stages_that_do_not_fill_the_steps_are_refused_in_a_sentence(
    tmp_path: Path, n: int
) -> None:
    values = recipe_values(
        tmp_path,
        stages=[{"steps": n - 4, "learning_rate": 1e-3}, {"steps": 4, "learning_rate": 1e-4}],
    )
    path = write_recipe(tmp_path / "recipe.yaml", values)
    with pytest.raises(RecipeError) as caught:
        read_property_recipe(path)
    sentence = (
        f"`training`: the stages have {n} steps together, training.steps is 12; they must be equal"
    )
    assert str(caught.value) == f"{path}: {sentence}"


def test_the_optimizer_is_given_these_rates(tmp_path: Path) -> None:
    stages = [
        {"steps": 4, "learning_rate": 1e-3},
        {"steps": 8, "learning_rate": 1e-3, "decay": "cosine"},
    ]
    recipe = make_recipe(write_glasses(tmp_path / "glass"), stages=stages)
    task = PropertyTask(recipe, read_split(recipe.data, tmp_path), cpu_fabric())
    run, seen = task.start(), []
    for step, batch in task.batches(run, range(12)):
        task.update(run, batch, step)
        seen += [group["lr"] for group in run.optimizer.param_groups]
    assert seen == [recipe.training.rate_at(step) for step in range(12)]
    assert seen[:5] == [1e-3] * 5
    assert all(later < earlier for earlier, later in pairwise(seen[4:]))
