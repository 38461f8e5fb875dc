"""Compare relaxations with and without a warm start, structure by structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from geocalc import Result
from geocalc.evaluation import distances

# eV and Angstrom (mean over free atoms) up to which two relaxations have ended in one place
SAME = 0.02


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Of the relaxations from one kind of start."""

    name: str
    n: int
    calls_mean: float
    calls_median: float
    converged: float
    energy_mean: float


def summary(name: str, results: Sequence[Result]) -> Summary:
    """Means over all; a relaxation that did not converge counts with the calls it made."""
    calls = np.array([r.record.n_evaluations for r in results])
    return Summary(
        name=name,
        n=len(results),
        calls_mean=float(calls.mean()),
        calls_median=float(np.median(calls)),
        converged=float(np.mean([bool(r.record.converged) for r in results])),
        energy_mean=float(np.mean([r.record.energy for r in results])),
    )


def compared(plain: Sequence[Result], warm: Sequence[Result]) -> dict[str, float]:
    """Pair by pair: calls saved, and where the two end."""
    saved = np.array(
        [p.record.n_evaluations - w.record.n_evaluations for p, w in zip(plain, warm, strict=True)]
    )
    lower = np.array([w.record.energy - p.record.energy for p, w in zip(plain, warm, strict=True)])  # type: ignore[operator]
    apart = np.array([_apart(p.atoms, w.atoms) for p, w in zip(plain, warm, strict=True)])
    error = float(saved.std(ddof=1) / np.sqrt(len(saved)))
    return {
        "saved_mean": float(saved.mean()),
        "saved_error": error,
        "fewer": float((saved > 0).mean()),
        "same_place": float(((np.abs(lower) < SAME) & (apart < SAME)).mean()),
        "lower": float((lower < -SAME).mean()),
        "higher": float((lower > SAME).mean()),
    }


def _apart(one: Atoms, other: Atoms) -> float:
    """Mean distance of free atoms, Angstrom."""
    free = np.linalg.norm(one.get_forces(apply_constraint=True), axis=1) > 0
    return float(
        distances(one.positions, other.positions, np.array(one.cell), one.pbc)[free].mean()
    )
