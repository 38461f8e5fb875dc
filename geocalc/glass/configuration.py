"""Configurations of binary glasses, with what is known of the motion of their particles."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GlassConfiguration:
    """A snapshot of a binary glass in a periodic box, in Lennard-Jones units.

    Attributes:
        name: of the configuration, its file without the suffix.
        positions: (n, 3); they may lie outside the box.
        types: (n,) int64, 0 for A, the majority, and 1 for B.
        box: (3,), lengths of the orthogonal periodic box.
        temperature: None where it is not known.
        times: (n_times,), at which motion was measured; NaN where unknown.
        propensity: (n_times, n), mean over runs of |x(t) - x(0)|.
        half_a, half_b: (n_times, n), the same over either half of the runs, or None.
        n_runs: None where it is not known.
        isf: (n_times,), self-intermediate scattering function of A, or None.
        ageing: how far two halves of its equilibration differ, see `geocalc.glass.dynamics.ageing`, or None.
    """

    name: str
    positions: Floats
    types: NDArray[np.int64]
    box: Floats
    temperature: float | None = None
    times: Floats
    propensity: Floats
    half_a: Floats | None = None
    half_b: Floats | None = None
    n_runs: int | None = None
    isf: Floats | None = None
    ageing: float | None = None

    @property
    def n_particles(self) -> int:
        """Number of particles."""
        return len(self.types)


def write_configuration(path: Path | str, configuration: GlassConfiguration) -> None:
    """Write all that is known of a configuration to an npz file; its name is that of the file."""
    known: dict[str, Any] = {
        field.name: getattr(configuration, field.name)
        for field in fields(configuration)
        if field.name != "name" and getattr(configuration, field.name) is not None
    }
    np.savez_compressed(path, **known)
