"""Read and write results.csv with the numbers of all rows and seeds, and compute their statistics."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from rows import Tables
from scipy.stats import t as student

CONFIDENCE = 0.95
COLUMNS = ("table", "row", "seed", "quantity", "value")
Key = tuple[str, str, int, str]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Of the seeds of a row: the mean and its standard error, NaN of a single one."""

    value: float
    error: float
    n: int


@dataclass(frozen=True)
class Results:
    """Every number by table, row, seed and name of the quantity."""

    values: dict[Key, float]

    def seeds(self, table: str, row: str, quantity: str) -> dict[int, float]:
        """The number of each seed that has it."""
        return {
            key[2]: value
            for key, value in self.values.items()
            if (key[0], key[1], key[3]) == (table, row, quantity)
        }

    def mean(self, table: str, row: str, quantity: str) -> Mean | None:
        """Over seeds; None where there is nothing."""
        found = list(self.seeds(table, row, quantity).values())
        if not found:
            return None
        return Mean(value=fmean(found), error=standard_error(found), n=len(found))

    def differences(
        self, table: str, pairs: Sequence[tuple[str, str]], quantity: str
    ) -> list[float]:
        """First minus second row of each pair, for every seed that both have."""
        found = []
        for first, second in pairs:
            one, other = self.seeds(table, first, quantity), self.seeds(table, second, quantity)
            found += [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
        return found


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; NaN of a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def interval(differences: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of the mean of differences, by Student's t;
    infinite for fewer than two.
    """
    if len(differences) < 2:
        return math.inf
    return float(student.ppf(0.5 + CONFIDENCE / 2, len(differences) - 1)) * standard_error(
        differences
    )


def read_results(path: Path) -> Results:
    """What a results.csv holds, nothing where there is none."""
    if not path.exists():
        return Results({})
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    return Results(
        {(r["table"], r["row"], int(r["seed"]), r["quantity"]): float(r["value"]) for r in rows}
    )


def write_results(results: Results, path: Path) -> None:
    """One line for every number, in order."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for key, value in sorted(results.values.items()):
            writer.writerow([*key, f"{value:.6g}"])


def collect(runs: Path, before: Results, tables: Tables) -> Results:
    """`before`, with the numbers of whole runs renewed where `runs` holds measurements, at
    TABLE/ROW-SEED.
    """
    values = dict(before.values)
    for row in tables.rows:
        for seed in tables.seeds:
            path = runs / row.run[0] / f"{row.run[1]}-{seed}" / row.measured
            if path.exists():
                key = (row.table, row.name, seed)
                values = {other: value for other, value in values.items() if other[:3] != key}
                values |= {
                    (*key, name): value for name, value in json.loads(path.read_text()).items()
                }
    return Results(values)
