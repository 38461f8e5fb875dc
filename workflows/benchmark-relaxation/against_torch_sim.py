"""Compare FIRE of geocalc and of torch-sim on the same structures with the same potential, in turn.

Constraints are left out, since torch-sim does not support them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.optimize import FIRE
from overhead import NEVER, ROUNDS, STEPS, by_ase, by_geocalc, slabs
from side import Side

FMAX, MOST = 0.05, 1000
SLOW = 4  # rounds in which ASE takes part; its spread is small


@dataclass(frozen=True)
class Compared:
    """One line.

    Attributes:
        way: what ran.
        batch: structures of 37 atoms.
        calls_mean: structures evaluated until all had converged, for each structure.
        ms: milliseconds outside the model for each of these.
    """

    way: str
    batch: int
    calls_mean: float
    ms: float


def measure(python: str, batch: int = 32, rounds: int = ROUNDS) -> list[Compared]:
    """`python` is the interpreter of an environment with torch-sim."""
    structures = slabs(batch, 37, constrained=False)
    batch_of = _written(structures)
    found: dict[str, list[tuple[float, float]]] = {}
    with Side("torch_sim_side.py", python) as other:
        for turn in range(rounds + 1):
            seen: dict[str, tuple[float, float]] = {}
            seen["torch-sim optimize, FIRE"] = _ms(
                other.ask(**batch_of, fmax=FMAX, steps=MOST), batch
            )
            seen[f"torch-sim, {STEPS} bare FIRE steps"] = _ms(
                other.ask(**batch_of, bare=STEPS), batch
            )
            for label, fmax, steps in (
                ("geocalc fire", FMAX, MOST),
                (f"geocalc fire, {STEPS} steps", NEVER, STEPS),
            ):
                seconds, clock = by_geocalc("fire", structures, fmax, steps)
                seen[label] = (
                    1e3 * (seconds - clock.seconds) / clock.structures,
                    clock.structures / batch,
                )
            if turn < SLOW:
                seconds, clock = by_ase(FIRE, structures, FMAX, MOST)
                seen["ASE FIRE"] = (
                    1e3 * (seconds - clock.seconds) / clock.structures,
                    clock.structures / batch,
                )
            for label, values in seen.items() if turn else ():
                found.setdefault(label, []).append(values)
    return [
        Compared(
            label,
            batch,
            calls_mean=float(np.median([v[1] for v in values])),
            ms=float(np.median([v[0] for v in values])),
        )
        for label, values in found.items()
    ]


def _ms(reply: dict[str, float], batch: int) -> tuple[float, float]:
    return 1e3 * (reply["seconds"] - reply["model_seconds"]) / reply["structures"], reply[
        "structures"
    ] / batch


def _written(structures: list[Atoms]) -> dict[str, object]:
    return {
        "positions": [atoms.positions.tolist() for atoms in structures],
        "numbers": [atoms.numbers.tolist() for atoms in structures],
        "cells": [atoms.cell.tolist() for atoms in structures],
    }
