"""Relax with CHGNet by ASE's BFGS and by geocalc's loop, in the same process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from side import Side

WAYS = ("ASE BFGS", "bfgs", "quasi-newton")
REFERENCE, SAME_BASIN = "ASE BFGS", 0.01


@dataclass(frozen=True)
class Peer:
    """One line; `difference_mev` is the largest difference of energy from ASE's BFGS among
    `same_basin`, those within 10 meV of it.
    """

    way: str
    n: int
    calls_mean: float
    converged: float
    seconds: float
    same_basin: float
    difference_mev: float


def measure(python: str, n: int = 8, seed: int = 0) -> list[Peer]:
    """`python` is the interpreter of an environment with chgnet; each way on one structure at a
    time, in turn.
    """
    replies: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with Side("chgnet_side.py", python) as other:
        other.ask(way="bfgs", n=1, seed=seed, first=0)  # warms up
        for k in range(n):
            for way in WAYS:
                replies[way].append(other.ask(way=way, n=k + 1, seed=seed, first=k))
    reference = np.array([reply["energies"][0] for reply in replies[REFERENCE]])
    rows = []
    for way, found in replies.items():
        away = np.abs(np.array([reply["energies"][0] for reply in found]) - reference)
        rows.append(
            Peer(
                way=way if way.startswith("ASE") else f"geocalc {way}",
                n=n,
                calls_mean=float(np.mean([reply["calls"] for reply in found])),
                converged=float(np.mean([reply["converged"] for reply in found])),
                seconds=float(sum(reply["seconds"] for reply in found)),
                same_basin=float((away < SAME_BASIN).mean()),
                difference_mev=1e3 * float(away[away < SAME_BASIN].max()),
            )
        )
    return rows
