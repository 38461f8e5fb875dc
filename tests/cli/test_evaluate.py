"""`geocalc evaluate` compares energies of one kind only."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.models import write_model
from helpers.training import recipe_values, write_recipe

from geocalc.cli.evaluate import evaluate_command
from geocalc.errors import EnergyKindError
from geocalc.evaluation.settings import EvaluateSettings


@pytest.mark.parametrize("task", ["s2ef", "relax"])
def test_labels_of_another_kind_than_the_model_are_refused(tmp_path: Path, task: str) -> None:
    model = write_model(tmp_path, "mine", card={"energy_kind": "adsorption"})
    values = recipe_values(tmp_path / "d.traj")
    assert values["about"]["energy_kind"] == "total"
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    with pytest.raises(
        EnergyKindError, match=r"mine gives adsorption energies and .*d.traj has total energies"
    ):
        evaluate_command(str(model), recipe, tmp_path / "out", EvaluateSettings(task=task))
    assert not (tmp_path / "out").exists()
