"""Conjugate gradients: line searches along directions that do not undo each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from geocalc.core.systems import Coordinates, max_per_system, per_row, per_system
from geocalc.optim.base import Ragged, dots_per_system, spread


class LineSearch(NamedTuple):
    """Line search of one structure.

    Attributes:
        length: Angstrom^2/eV, displacement divided by the direction: of the trial step, or of the
            last step to a minimum.
        slope: (eV/Angstrom)^2, forces times direction at the start of the line; 0 before it.
        on_trial: whether the last step was a trial step.
    """

    length: float
    slope: float = 0.0
    on_trial: bool = False


class _Step(NamedTuple):
    """Step of one structure: the direction is weight * forces + memory * old direction."""

    search: LineSearch
    weight: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class ConjugateGradientState:
    """State of conjugate gradients.

    Attributes:
        search: one `LineSearch` per structure.
        direction: (n_rows, 3) eV/Angstrom, of the line.
        forces: (n_rows, 3) eV/Angstrom at the start of the line.
    """

    search: Ragged[LineSearch] = per_system()
    direction: Tensor = per_row()
    forces: Tensor = per_row()


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """Settings of conjugate gradients with trial and corrector steps, as in VASP's IBRION = 2.

    Each line search is a trial step, as long as the last line was, and a corrector step to the
    point where forces along the line vanish by linear interpolation. The corrector step is left out
    where the trial step was good enough. Only forces are used, and memory grows linearly with the
    number of atoms.

    Attributes:
        max_step: Angstrom, longest displacement of any one atom; a longer step is scaled down as a
            whole.
        curvature: eV/Angstrom^2, inverse length of the first trial step.
        accuracy: forces along the line after a trial step, as a fraction of those before it, below
            which no corrector step is taken.

    Source: Nocedal and Wright, Numerical Optimization (2006), sec. 5.2, Polak-Ribiere formula with
    restarts (PR+).
    """

    max_step: float = 0.2
    curvature: float = 70.0
    accuracy: float = 0.2

    def init(self, coordinates: Coordinates) -> ConjugateGradientState:
        """State before the first line."""
        zero = torch.zeros_like(coordinates.positions)
        searches = (LineSearch(1.0 / self.curvature),) * coordinates.n_systems
        return ConjugateGradientState(search=Ragged(searches), direction=zero, forces=zero)

    def step(
        self,
        coordinates: Coordinates,
        energy: Tensor,
        forces: Tensor,
        state: ConjugateGradientState,
    ) -> tuple[Tensor, ConjugateGradientState]:
        """One trial or corrector step; see `geocalc.optim.base.Optimizer.step`."""
        old = state.direction
        products = dots_per_system(
            [(forces, old), (forces, forces), (forces, state.forces), (state.forces, state.forces)],
            coordinates,
        )
        steps = [self._next(*known) for known in zip(state.search, products, strict=True)]
        weight, memory = spread([(step.weight, step.memory) for step in steps], coordinates)
        direction = weight * forces + memory * old
        longest = max_per_system(torch.linalg.vector_norm(direction, dim=1), coordinates).tolist()
        searches, lengths = [], []
        for before, step, far in zip(state.search, steps, longest, strict=True):
            begun = 0.0 if step.search.on_trial else before.length
            limit = self.max_step / far if far > 0 else 0.0
            length = min(max(step.search.length - begun, -limit), limit)
            searches.append(step.search._replace(length=(begun + length) or before.length))
            lengths.append([length])
        (length,) = spread(lengths, coordinates)
        starts = weight > 0
        return length * direction, ConjugateGradientState(
            search=Ragged(tuple(searches)),
            direction=direction,
            forces=torch.where(starts, forces, state.forces),
        )

    def _next(self, search: LineSearch, dots: list[float]) -> _Step:
        """The next step of one structure, before it is limited to `max_step`.

        Args:
            search: up to here.
            dots: (eV/Angstrom)^2, forces times direction, forces times forces, forces times those
                at the start of the line, and the square of those.
        """
        slope, square, overlap, old_square = dots
        length = search.length
        if search.on_trial:
            falls = slope < search.slope
            length = length * search.slope / (search.slope - slope) if falls else math.inf
            if abs(slope) > self.accuracy * search.slope:
                return _Step(LineSearch(length, search.slope), 0.0, 1.0)
        memory = max(0.0, (square - overlap) / old_square) if old_square > 0 else 0.0
        if memory * slope + square <= 0:  # uphill: start again along the forces
            memory = 0.0
        return _Step(LineSearch(length, memory * slope + square, True), 1.0, memory)
