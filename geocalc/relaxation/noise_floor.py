"""Detection of the noise floor: forces stop falling because they are as small as their errors.

Such forces disagree with the energy, or with each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from geocalc.core.systems import (
    Coordinates,
    changed,
    free_atoms,
    per_row,
    per_system,
    sum_per_system,
)
from geocalc.optim.base import Ragged, dots_per_system

# evaluations that are not recorded: most relaxations end within them, without any cost
HEAD_START = 20
# evaluations that are judged together; with 30, relaxations were stopped before an energy barrier
# that they would have crossed
WINDOW = 40
STALLED = 0.8  # times the smallest fmax before the window; a smaller fmax within it is progress
# fraction of the absolute work that lowered the energy; on EMT no method had less than 0.26,
# however long fmax did not fall
WANDERING = 0.1
# eV of work in a step; ten times the rounding of float32 energies
RESOLVED = 1e-4
# eV/Angstrom^2; twice the force constant of N2: a larger change of forces for its step is an error
STIFFEST = 300.0
LITTLE = 1e-3  # eV; a smaller gain in a window of scattered forces is no progress
# times the error of a component; the largest random error among some hundred atoms is four times
LARGEST = 5.0


class Visit(NamedTuple):
    """Record of one evaluation of a structure, compared with the one before.

    Attributes:
        energy: eV.
        fmax: eV/Angstrom.
        force: (eV/Angstrom)^2, square of the forces, summed over rows.
        work: eV, work of the forces along the last step, by the trapezoidal rule.
        step: Angstrom^2, square of the last step.
        change: (eV/Angstrom)^2, square of the change of the forces.
    """

    energy: float
    fmax: float
    force: float
    work: float
    step: float
    change: float


class Trail(NamedTuple):
    """Recent evaluations of one structure.

    Attributes:
        visits: the last `WINDOW` evaluations.
        energy, fmax: eV and eV/Angstrom, lowest values before these evaluations.
    """

    visits: tuple[Visit, ...] = ()
    energy: float = math.inf
    fmax: float = math.inf

    def add(self, visit: Visit) -> Trail:
        """The trail with one more evaluation."""
        if len(self.visits) < WINDOW:
            return Trail((*self.visits, visit), self.energy, self.fmax)
        oldest = self.visits[0]
        return Trail(
            (*self.visits[1:], visit), min(self.energy, oldest.energy), min(self.fmax, oldest.fmax)
        )


@dataclass(frozen=True, kw_only=True)
class Trails:
    """Recent evaluations of a batch.

    Attributes:
        positions: (n_rows, 3) Angstrom, of the last evaluation.
        forces: (n_rows, 3) eV/Angstrom at these positions.
        trails: of each structure.
        n_free: (n_systems,) float64, number of rows that may move.
    """

    positions: Tensor = per_row()
    forces: Tensor = per_row()
    trails: Ragged[Trail] = per_system()
    n_free: Tensor = per_system()


def no_trails(coordinates: Coordinates) -> Trails:
    """Trails before the first evaluation."""
    return Trails(
        positions=coordinates.positions,
        forces=torch.zeros_like(coordinates.positions),
        trails=Ragged((Trail(),) * coordinates.n_systems),
        n_free=sum_per_system(free_atoms(coordinates.fixed).double(), coordinates),
    )


def follow(
    before: Trails,
    coordinates: Coordinates,
    energy: Tensor,
    forces: Tensor,
    fmax: Tensor,
    n_evaluations: Tensor,
) -> Trails:
    """Add one evaluation to each trail; a trail never depends on the other structures of the batch.

    Args:
        before: the trails before it.
        coordinates: at the positions that were evaluated.
        energy: (n_systems,) eV.
        forces: (n_rows, 3) eV/Angstrom along what constraints allow.
        fmax: (n_systems,) eV/Angstrom.
        n_evaluations: (n_systems,) int64, including this one.
    """
    late = (n_evaluations > HEAD_START).tolist()
    if not any(late):
        return changed(before, positions=coordinates.positions, forces=forces)
    step = coordinates.positions - before.positions
    mean = 0.5 * (forces + before.forces)
    change = forces - before.forces
    dots = dots_per_system(
        [(forces, forces), (mean, step), (step, step), (change, change)], coordinates
    )
    known = zip(before.trails, late, energy.tolist(), fmax.tolist(), dots, strict=True)
    trails = tuple(
        trail.add(Visit(e, f, *row)) if counts else trail for trail, counts, e, f, row in known
    )
    return Trails(
        positions=coordinates.positions, forces=forces, trails=Ragged(trails), n_free=before.n_free
    )


def noise_floors(trails: Trails) -> list[float]:
    """Find structures at their noise floor and the errors of their forces.

    A structure is at its noise floor when, over `WINDOW` evaluations, its smallest fmax did not
    fall and is small enough to be explained by errors, and in addition either its energy did not
    follow the work of the forces, or the forces changed by more than any stiffness explains while
    the energy hardly fell. Slow progress on a potential whose forces are the gradient of its energy
    meets neither condition.

    Returns:
        For each structure at its noise floor the root mean square error of a force component on a
        free atom, eV/Angstrom; NaN for the others.
    """
    return [
        _floor(trail, n_free)
        for trail, n_free in zip(trails.trails, trails.n_free.tolist(), strict=True)
    ]


def _floor(trail: Trail, n_free: float) -> float:
    """See `noise_floors`."""
    visits = trail.visits
    if math.isinf(trail.fmax) or not n_free:
        return math.nan
    smallest = min([visit.fmax for visit in visits])
    if smallest <= STALLED * trail.fmax:
        return math.nan
    won = trail.energy - min([visit.energy for visit in visits])
    work = sum([abs(visit.work) for visit in visits[1:]])
    wanders = won <= WANDERING * work and work > RESOLVED * (WINDOW - 1)
    if not wanders and won > LITTLE:
        return math.nan
    path, change = (
        sum([visit.step for visit in visits[1:]]),
        sum([visit.change for visit in visits[1:]]),
    )
    error = _error(visits, change, n_free) if wanders or change > STIFFEST**2 * path else math.nan
    return error if smallest <= LARGEST * error else math.nan


def _error(visits: Sequence[Visit], change: float, n_free: float) -> float:
    """Error of a force component in eV/Angstrom: the smallest of three estimates, each of which may
    be too large.

    Independent errors of size s make an error of s times the step over the square root of two in
    the work along a step, changes of forces of size s times the square root of two, and forces of
    at least s.

    Args:
        visits: evaluations of a window.
        change: (eV/Angstrom)^2, squared changes of the forces, summed over the window.
        n_free: number of rows that may move.
    """
    of_work = [
        math.sqrt(2.0 / now.step) * abs(now.energy - before.energy + now.work)
        for before, now in pairwise(visits)
        if now.step > 0
    ]
    n_components = 3.0 * n_free
    of_changes = math.sqrt(change / (len(visits) - 1) / 2.0 / n_components)
    of_forces = math.sqrt(sum(visit.force for visit in visits) / len(visits) / n_components)
    return min(median(of_work), of_changes, of_forces) if of_work else min(of_changes, of_forces)
