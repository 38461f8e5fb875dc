"""Fit baselines without networks: the local energy, and a ridge regression on descriptors, both of
thermal and of inherent structures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from descriptors import LENGTHS, descriptors, local_energies

from geocalc.properties import GlassData, GlassGraph, Structure, configurations, graph_positions
from geocalc.properties.glass import GlassConfiguration

# of the ridge, for standardised columns; those of bad fits are included
STRENGTHS = 10.0 ** np.arange(0, 6.5, 0.5)
A = 0


@dataclass(frozen=True, eq=False)
class Table:
    """What is known of the A particles of a configuration.

    Attributes:
        name: of the configuration.
        columns: (n, n_columns).
        known: (n,), propensity.
    """

    name: str
    columns: np.ndarray
    known: np.ndarray


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear fit.

    Attributes:
        weights: (n_columns,).
        offset: what is added.
        chosen: in words, what was chosen by the configurations fitted to.
    """

    weights: np.ndarray
    offset: float
    chosen: str

    def __call__(self, table: Table) -> np.ndarray:
        """(n,), predicted propensity."""
        return table.columns @ self.weights + self.offset


@dataclass(frozen=True)
class Baseline:
    """A way to predict: columns of which structure, and how they are fitted."""

    name: str
    structure: Structure
    columns: Callable[[GlassConfiguration], np.ndarray]
    fit: Callable[[Sequence[Table]], Linear]


def tables(baseline: Baseline, data: GlassData, names: Sequence[str], folder: Path) -> list[Table]:
    """Columns and propensities of configurations; inherent structures are kept in `folder`."""
    found = []
    for configuration in configurations(data, names):
        positions = graph_positions(configuration, GlassGraph(structure=baseline.structure), folder)
        columns = baseline.columns(replace(configuration, positions=positions))
        counted = configuration.types == A
        found.append(
            Table(configuration.name, columns[counted], configuration.propensity[0, counted])
        )
    return found


def fit_energy(some: Sequence[Table]) -> Linear:
    """A straight line on the one column, of averages over one distance, that correlates best with
    the propensity.
    """
    columns, known = _joined(some)
    moved = columns - columns.mean(0)
    strengths = np.abs(moved.T @ (known - known.mean())) / np.linalg.norm(moved, axis=0)
    best = int(strengths.argmax())
    slope, offset = np.polyfit(columns[:, best], known, 1)
    weights = np.zeros(columns.shape[1])
    weights[best] = slope
    return Linear(weights, float(offset), f"{LENGTHS[best]:g}")


def fit_ridge(some: Sequence[Table]) -> Linear:
    """A ridge regression whose strength gives the least squared error when each configuration in
    turn is left out.
    """
    errors = np.zeros(len(STRENGTHS))
    for k, out in enumerate(some):
        fits = ridges([table for j, table in enumerate(some) if j != k])
        errors += [float(((fit(out) - out.known) ** 2).sum()) for fit in fits]
    return ridges(some)[int(errors.argmin())]


def ridges(some: Sequence[Table]) -> list[Linear]:
    """A fit for each of `STRENGTHS`; columns are standardised over the tables."""
    columns, known = _joined(some)
    mean, spread = columns.mean(0), columns.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled, middle = (columns - mean) / spread, float(known.mean())
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    along = vectors.T @ (scaled.T @ (known - middle))
    found = []
    for strength in STRENGTHS:
        weights = vectors @ (along / (np.maximum(values, 0.0) + strength)) / spread
        found.append(Linear(weights, middle - float(mean @ weights), f"{strength:.3g}"))
    return found


def _joined(some: Sequence[Table]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([table.columns for table in some]), np.concatenate(
        [table.known for table in some]
    )


BASELINES = tuple(
    Baseline(f"{name}, {structure.value}", structure, columns, fit)
    for name, columns, fit in (
        ("local energy", local_energies, fit_energy),
        ("ridge on descriptors", descriptors, fit_ridge),
    )
    for structure in (Structure.THERMAL, Structure.INHERENT)
)
