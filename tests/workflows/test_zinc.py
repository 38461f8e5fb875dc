"""The study of ZINC runs from its recipes to its page: a few steps, on made-up molecules and on
those at hand.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.workflow_modules import workflow_modules
from PIL import Image

from geocalc.properties.recipe import read_property_recipe

STUDY = Path(__file__).parents[2] / "workflows" / "zinc"
MODULES = ("measure", "figures", "page", "run")  # each imports those before it by their bare names
DATA = os.environ.get("GEOCALC_DATA")
FILE = Path("zinc12k-valtest/zinc12k_val_test.npz")


@pytest.fixture(scope="module")
def study() -> Iterator[dict[str, ModuleType]]:
    """Modules of the study."""
    with workflow_modules("zinc", MODULES) as found:
        yield found


def write_molecules(path: Path, n: int) -> None:
    """Rings of carbon, type 0, and some other atoms in both parts; the property is the share of the
    others.
    """
    rng, arrays = np.random.default_rng(0), {}
    for part in ("val", "test"):
        sizes = rng.integers(3, 9, n)
        types = [np.where(rng.random(size) < 0.3, 2, 0) for size in sizes]
        steps = [np.stack([np.arange(size), np.roll(np.arange(size), 1)]) for size in sizes]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        arrays |= {
            f"{part}_x": np.concatenate(types)[:, None],
            f"{part}_edge_index": np.concatenate(
                [np.concatenate([s, s[::-1]], axis=1) for s in steps], axis=1
            ),
            f"{part}_edge_attr": np.ones(2 * sizes.sum(), dtype=np.int64),
            f"{part}_y": np.array([one.mean() for one in types])[:, None],
            f"{part}_x_slices": starts,
            f"{part}_edge_index_slices": 2 * starts,
            f"{part}_edge_attr_slices": 2 * starts,
            f"{part}_y_slices": np.arange(n + 1),
        }
    path.parent.mkdir(parents=True)
    np.savez(path, **arrays)


def go_through(study: dict[str, ModuleType], place: Path, folds: str) -> list[dict[str, float]]:
    """Train and report; returns the numbers."""
    shutil.copy(STUDY / "README.md", place / "README.md")
    options = ["--folds", folds, "--steps", "2", "--out", str(place / "runs")]
    for command in (["train", *options], ["report", *options, "--to", str(place)]):
        done = CliRunner().invoke(study["run"].main, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    for name in ("learning-curve.png", "parity.png"):
        with Image.open(place / name) as picture:
            assert min(picture.size) > 200
    return json.loads((place / "results.json").read_text())


@pytest.mark.slow
def test_the_study_on_made_up_molecules(
    study: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_molecules(tmp_path / "data" / FILE, 30)
    monkeypatch.setenv("GEOCALC_DATA", str(tmp_path / "data"))
    early = CliRunner().invoke(
        study["run"].main, ["report", "--steps", "2", "--out", str(tmp_path / "runs")]
    )
    assert early.exit_code == 1
    assert "is not finished; run train with the same options first" in early.output
    rows = go_through(study, tmp_path, "0,1")
    assert [(row["name"], row["fold"], row["n"]) for row in rows] == [
        ("small", 0, 12),
        ("small", 1, 12),
        ("big", 0, 12),
        ("big", 1, 12),
    ]
    assert [row["weights"] for row in rows] == [1185, 1185, 46849, 46849]
    table = (
        (tmp_path / "README.md")
        .read_text()
        .split("<!-- table -->")[1]
        .split("<!-- /table -->")[0]
        .splitlines()
    )
    (small,) = [line for line in table if line.startswith("| small | 1,185 | 2 | ")]
    mae = [row["mae"] for row in rows[:2]]
    assert f"| {np.mean(mae):.3f} ± {abs(mae[0] - mae[1]) / 2:.3f} |" in small
    before = (tmp_path / "runs" / "small-2" / "fold-0" / "log.jsonl").read_bytes()
    go_through(study, tmp_path, "0,1")  # again, with nothing left to do
    assert (tmp_path / "runs" / "small-2" / "fold-0" / "log.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(
    DATA is None, reason="GEOCALC_DATA, the folder of published data sets, is not set"
)
def test_the_study_on_the_molecules_at_hand(study: dict[str, ModuleType], tmp_path: Path) -> None:
    rows = go_through(study, tmp_path, "3")
    assert [row["n"] for row in rows] == [400, 400]
    assert [row["epochs"] for row in rows] == [pytest.approx(2 * 32 / 1600)] * 2
    assert 0.5 < rows[0]["mean_mae"] < 2.5


def test_the_recipes_are_those_of_the_report() -> None:
    recipes = {name: read_property_recipe(STUDY / f"{name}.yaml") for name in ("small", "big")}
    assert {recipe.training.batch_size for recipe in recipes.values()} == {32}
    assert {recipe.training.loss.value for recipe in recipes.values()} == {"squared"}
    assert [recipe.training.learning_rate for recipe in recipes.values()] == [1e-3, 5e-4]
    for recipe in recipes.values():
        last = recipe.training.steps - 1
        assert recipe.training.rate_at(last) < 1e-4 * recipe.training.learning_rate
        assert (recipe.data.folds, recipe.data.parts) == (5, ("val", "test"))


@pytest.mark.parametrize(
    ("values", "text"),
    [([0.5], "0.500"), ([1.0, 3.0], "2.000 ± 1.000"), ([1.0, 2.0, 3.0], "2.000 ± 0.577")],
)
def test_the_standard_error_of_folds(
    study: dict[str, ModuleType], values: list[float], text: str
) -> None:
    assert study["page"].with_error(values) == text


def test_the_seconds_of_a_run_in_pieces_are_added(study: dict[str, ModuleType]) -> None:
    assert study["measure"]._seconds([1.0, 2.0, 2.0, 5.0]) == 5.0
    assert study["measure"]._seconds([1.0, 4.0, 0.5, 3.0, 2.0]) == 4.0 + 3.0 + 2.0
