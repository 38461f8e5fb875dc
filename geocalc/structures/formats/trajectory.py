"""Trajectories of ASE."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ase.io.trajectory import TrajectoryReader

from geocalc.structures.formats.base import Load


def read_trajectory(path: Path) -> Iterator[Load]:
    """Images of a .traj file, one function each."""
    with path.open("rb") as stream, TrajectoryReader(stream) as trajectory:
        for index in range(len(trajectory)):
            yield partial(trajectory.__getitem__, index)
