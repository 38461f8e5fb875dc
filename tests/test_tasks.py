"""Every task has an entry, and the entry is chosen by the task that a recipe or a card names."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.glasses import recipe_values, write_recipe

from geocalc.errors import ModelFileError, RecipeError
from geocalc.potentials.card import Task
from geocalc.potentials.registry import model_task, shipped_folder
from geocalc.tasks import TASKS, read_any_card, read_any_recipe

SHIPPED = sorted(card.parent for card in shipped_folder().glob("*/model.yaml"))


def test_every_task_has_an_entry_with_cards_for_it() -> None:
    assert set(TASKS) == set(Task)
    assert all(task in entry.kind.card.tasks for task, entry in TASKS.items())


@pytest.mark.parametrize(
    "folder",
    SHIPPED,
    ids=lambda folder: folder.name,
)
def test_cards_and_recipes_of_shipped_models_are_read_as_their_task_says(folder: Path) -> None:
    card, recipe = read_any_card(folder), read_any_recipe(folder / "recipe.yaml")
    kind = TASKS[model_task(folder)].kind
    assert isinstance(card, kind.card)
    assert isinstance(recipe, kind.recipe)
    assert card.name == folder.name
    assert card.domain == recipe.about.domain
    assert card.predicts in ("adsorption", "total", "relative", "propensity")


def test_an_unknown_task_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", recipe_values(tmp_path) | {"task": "nodes"})
    with pytest.raises(RecipeError, match=r"recipe.yaml: `task` is 'nodes'; did you mean `node`\?"):
        read_any_recipe(path)
    (tmp_path / "model.yaml").write_text("task: grph\n")
    with pytest.raises(ModelFileError, match=r"unknown task 'grph'; did you mean `graph`\?"):
        model_task(tmp_path)
