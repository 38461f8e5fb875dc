"""The noise floor: where forces disagree with the energy or with each other, and will not become
smaller any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from geocalc.core.systems import Coordinates, per_row, per_system, sum_per_system
from geocalc.optim.base import Ragged, dots_per_system

# evaluations that are not looked at: most relaxations end within them, and pay nothing
HEAD_START = 20
# evaluations that are looked at together; with 30, methods that would get over a hill were stopped
# before it
WINDOW = 40
STALLED = 0.8  # of the smallest fmax before the window: less than that inside it is progress
# of the work that was done up and down; on EMT no method won less than 0.26 of it, however long
# fmax stood still
WANDERING = 0.1
# eV of work in a step; ten times the rounding of float32 energies, below which work and energy say
# nothing
RESOLVED = 1e-4
# eV/Angstrom^2; twice the force constant of N2: a larger change of forces for its step is an error
STIFFEST = 300.0
LITTLE = 1e-3  # eV won in a window where forces scatter; less is no progress for anybody
# errors of a component; the largest of some hundred atoms' random errors is four times that
LARGEST = 5.0


class Visit(NamedTuple):
    """What one evaluation says of a structure, compared with the one before.

    Attributes:
        energy: eV.
        fmax: eV/Angstrom.
        force: (eV/Angstrom)^2, square of the forces, summed over atoms.
        work: eV that the forces say was won by the step that led here, by the trapezoidal rule.
        step: Angstrom^2, square of that step.
        change: (eV/Angstrom)^2, square of the change of the forces.
    """

    energy: float
    fmax: float
    force: float
    work: float
    step: float
    change: float


class Trail(NamedTuple):
    """The evaluations of one structure.

    Attributes:
        visits: the last `WINDOW` of them.
        energy, fmax: eV and eV/Angstrom, lowest before those.
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
    """What is remembered of a batch.

    Attributes:
        positions: (n_atoms, 3) Angstrom, of the last evaluation.
        forces: (n_atoms, 3) eV/Angstrom there.
        trails: of each structure.
        n_free: (n_systems,) float64, atoms that may move.
    """

    positions: Tensor = per_row()
    forces: Tensor = per_row()
    trails: Ragged[Trail] = per_system()
    n_free: Tensor = per_system()


def no_trails(coordinates: Coordinates) -> Trails:
    """Before the first evaluation."""
    return Trails(
        positions=coordinates.positions,
        forces=torch.zeros_like(coordinates.positions),
        trails=Ragged((Trail(),) * coordinates.n_systems),
        n_free=sum_per_system((~coordinates.fixed).any(dim=1).double(), coordinates),
    )


def follow(
    before: Trails,
    coordinates: Coordinates,
    energy: Tensor,
    forces: Tensor,
    fmax: Tensor,
    n_evaluations: Tensor,
) -> Trails:
    """The trails with one more evaluation each; what is noted of a structure never depends on its
    batch mates.

    Args:
        before: the trails up to here.
        coordinates: at the positions that were evaluated.
        energy: (n_systems,) eV.
        forces: (n_atoms, 3) eV/Angstrom along what constraints allow.
        fmax: (n_systems,) eV/Angstrom.
        n_evaluations: (n_systems,) int64, with this one.
    """
    late = (n_evaluations > HEAD_START).tolist()
    if not any(late):
        return replace(before, positions=coordinates.positions, forces=forces)
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
    """The errors of the forces of each structure that has reached its noise floor, NaN for those
    that go on.

    A structure has reached it when, over `WINDOW` evaluations, its smallest fmax did not fall and
    is no more than errors explain, and either its energy did not follow the work that was done up
    and down, or its forces changed by more than any stiffness explains and won nothing. Slow
    progress on a potential whose forces are the gradient of its energy is neither.

    Returns:
        eV/Angstrom, root mean square error of a component of the force on a free atom, where it is
        known.
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
    """Error of a component of the forces in eV/Angstrom: what three estimates, each too large in
    some case, agree on.

    Independent errors give, of the work along a step, an error of their size times the step over
    the root of two; they give changes of forces larger by the root of two, and forces at least as
    large.
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
