"""Every row of the empirical study trains and is measured, and its verdicts say what the numbers
say.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.workflow_modules import workflow_modules

STUDY = Path(__file__).parents[2] / "workflows" / "empirical-study"
MODULES = ("pairs", "rows", "results", "claims")
TABLES = ("canonicalization", "graphs", "ewald", "noisy-nodes", "iterative")


@pytest.fixture(scope="module")
def study() -> Iterator[dict[str, ModuleType]]:
    """Modules of the study."""
    with workflow_modules("empirical-study", MODULES) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_row_trains_and_is_measured(
    table: str, tmp_path: Path, study: dict[str, ModuleType]
) -> None:
    command = [
        sys.executable,
        str(STUDY / "run.py"),
        "smoke",
        "--tables",
        table,
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert names == [
        f"{table} {row.name}" for row in study["rows"].read_tables().rows if row.table == table
    ]


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_every_row_is_a_recipe(full: bool, study: dict[str, ModuleType]) -> None:
    rows = study["rows"]
    tables = rows.read_tables(full=full)
    assert len(tables.seeds) >= 3
    assert {row.table for row in tables.rows} == set(TABLES)
    recipes = {(row.table, row.name): rows.recipe_of(row, 1, Path("pairs")) for row in tables.rows}
    assert {recipe.training.seed for recipe in recipes.values()} == {1}
    assert recipes["noisy-nodes", "depth-28"].model.settings["num_interactions"] == 28
    assert recipes["graphs", "drop-subsurface"] == recipes["canonicalization", "lattice"]


def test_claims_are_about_rows_that_there_are(study: dict[str, ModuleType]) -> None:
    there = {(row.table, row.name) for row in study["rows"].read_tables().rows}
    for claim in study["claims"].read_claims(STUDY / "claims.yaml"):
        assert {(claim.table, name) for pair in claim.pairs for name in pair} <= there


def results_of(study: dict[str, ModuleType], first: list[float], second: list[float]) -> object:
    values = {
        ("t", name, seed, "x"): v
        for name, some in (("a", first), ("b", second))
        for seed, v in enumerate(some)
    }
    return study["results"].Results(values)


@pytest.mark.parametrize(
    ("relation", "first", "word"),
    [
        ("less", [0.80, 0.81, 0.79], "holds"),
        ("less", [1.20, 1.21, 1.19], "does not hold"),
        ("less", [0.7, 1.3, 0.95], "cannot be told"),
        ("more", [1.20, 1.21, 1.19], "holds"),
        ("same", [1.001, 0.999, 1.0], "holds"),
        ("same", [1.20, 1.21, 1.19], "does not hold"),
        ("same", [0.7, 1.3, 0.95], "cannot be told"),
        ("no more", [0.80, 0.81, 0.79], "holds"),
        ("no more", [1.20, 1.21, 1.19], "does not hold"),
        ("less", [0.8], "not run"),
    ],
)
def test_verdicts(
    relation: str, first: list[float], word: str, study: dict[str, ModuleType]
) -> None:
    claims = study["claims"]
    claim = claims.Claim(
        table="t",
        text="",
        quantity="x",
        relation=claims.Relation(relation),
        pairs=(("a", "b"),),
        margin=0.05,
        unit="eV",
        scale=1.0,
    )
    assert claims.judge(claim, results_of(study, first, [1.0] * len(first))).word == word


@pytest.mark.slow
def test_the_interval_holds_the_mean_as_often_as_it_says(study: dict[str, ModuleType]) -> None:
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    covered = [abs(row.mean()) < study["results"].interval(list(row)) for row in draws]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_numbers_survive_a_report_without_their_runs(
    tmp_path: Path, study: dict[str, ModuleType]
) -> None:
    results, path = study["results"], tmp_path / "results.csv"
    kept = results_of(study, [0.25, 0.5], [1.0, 2.0])
    results.write_results(kept, path)
    again = results.collect(tmp_path, results.read_results(path), study["rows"].read_tables())
    assert again == kept
    mean = again.mean("t", "a", "x")
    assert (mean.value, mean.error, mean.n) == (0.375, pytest.approx(0.125), 2)
