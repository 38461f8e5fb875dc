"""The table of models in README.md is what the cards give."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from helpers.models import write_model

ROOT = Path(__file__).parents[2]
PAIRS = {"n": 40, "energy_mae": 0.1004, "energy_median": 0.0429, "energy_rmse": 0.2}
FRAMES = {"n": 90, "energy_mae": 0.08, "force_mae": 0.0488}


@pytest.fixture(scope="module")
def workflow() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "model_card_table", ROOT / "workflows" / "model-card" / "table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_readme_holds_it(workflow: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text()
    assert workflow.with_table(readme) == readme, "run `python workflows/model-card/table.py`"


def test_direct_models_and_potentials_are_listed_with_what_their_cards_have(
    workflow: ModuleType, tmp_path: Path
) -> None:
    direct = write_model(
        tmp_path, "a-direct", card={"task": "is2re"}, settings={"direct_forces": True}
    )
    (direct / "metrics.json").write_text(json.dumps({"validation": {"set": PAIRS}}))
    forces = write_model(tmp_path, "b-forces")
    relaxed = {
        "defaults": {"energy_mae": 0.0948, "energy_median": 0.0519},
        "others": {"energy_mae": 9.0, "energy_median": 9.0},
    }
    measured = {
        "single_points": {"set": FRAMES},
        "relaxations": relaxed,
        "milliseconds": {"65 atoms, averaged": 201.5},
    }
    (forces / "metrics.json").write_text(json.dumps(measured))
    bare = write_model(tmp_path, "c-bare")
    (bare / "metrics.json").write_text(json.dumps({"validation": {"set": FRAMES}, "steps": 10}))
    (tmp_path / "d-recipe").mkdir()
    (tmp_path / "d-recipe" / "recipe.yaml").write_text("name: d-recipe\n")
    lost = write_model(tmp_path, "e-lost")
    (lost / "weights.safetensors").unlink()

    head, _, *rows = map(cells, workflow.table(tmp_path).splitlines())
    assert [row[0] for row in rows] == ["`a-direct`", "`b-forces`", "`c-bare`"]
    assert all(len(row) == len(head) for row in rows)
    size = f"{(forces / 'weights.safetensors').stat().st_size / 1e6:.1f} MB"
    said = "relaxed adsorption energy and geometry from the unrelaxed structure"
    assert rows[0][1:6] == [said, "tests", "–", "0.100 (median 0.043)", "–"]
    assert rows[1][1:8] == [
        "adsorption energy, forces",
        "tests",
        "0.049",
        "0.095 (median 0.052)",
        "202 ms",
        size,
        "MIT",
    ]
    assert rows[2][3:5] == ["0.049", "–"]
    assert rows[2][8] == "[card](models/c-bare/README.md)"
