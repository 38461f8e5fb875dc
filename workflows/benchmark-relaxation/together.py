"""Compare structures relaxed together with the same relaxed alone, with the default model."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from emt_sets import KINDS, emt_set

import geocalc

WORKERS = 2


@dataclass(frozen=True)
class Together:
    """One line: how ends of structures computed together differ from those of structures alone.

    Attributes:
        kind, n: set.
        seconds, seconds_alone: wall time.
        same_status: share.
        within_energy: share within 1e-5 eV.
        within_positions: share in which no atom is further away than 1e-4 Angstrom.
        energy_mev, position: largest differences, meV and Angstrom.
    """

    kind: str
    n: int
    seconds: float
    seconds_alone: float
    same_status: float
    within_energy: float
    within_positions: float
    energy_mev: float
    position: float


def measure(n: int = 128) -> list[Together]:
    """The plain and the hard set."""
    rows = []
    for kind in ("plain", "hard"):
        given = emt_set(n, 0, KINDS[kind])
        found, seconds = [], []
        for reproducible in (False, True):
            start = time.perf_counter()
            found.append(geocalc.relax(given, workers=WORKERS, reproducible=reproducible))
            seconds.append(time.perf_counter() - start)
        pairs = list(zip(*found, strict=True))
        energy = np.array([abs(a.record.energy - b.record.energy) for a, b in pairs])
        move = np.array([np.abs(a.atoms.positions - b.atoms.positions).max() for a, b in pairs])
        rows.append(
            Together(
                kind,
                n,
                *seconds,
                float(np.mean([a.record.status == b.record.status for a, b in pairs])),
                float((energy < 1e-5).mean()),
                float((move < 1e-4).mean()),
                1e3 * float(energy.max()),
                float(move.max()),
            )
        )
        print(rows[-1], flush=True)
    return rows
