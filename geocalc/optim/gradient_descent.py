"""Gradient descent: steps along the forces, with a fixed factor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geocalc.core.systems import Coordinates
from geocalc.optim.base import FreeComponents


@dataclass(frozen=True)
class DescentState:
    """State of gradient descent: empty, since a step depends on the forces alone."""


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """Settings of gradient descent: slow, but without memory; a reference for other methods.

    Attributes:
        rate: Angstrom^2/eV, displacement per force; stable below twice the inverse of the stiffest
            curvature, which is 0.008 for the bond of CO.
        max_step: Angstrom, longest displacement of any one atom; a longer step is scaled down as a
            whole.
    """

    rate: float = 0.005
    max_step: float = 0.2

    def init(self, coordinates: Coordinates) -> DescentState:
        """The empty state."""
        return DescentState()

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: DescentState
    ) -> tuple[Tensor, DescentState]:
        """One step along the forces; see `geocalc.optim.base.Optimizer.step`."""
        free = FreeComponents.of(coordinates)
        steps = [self.rate * part[0] for part in free.split(forces)]
        return free.join(steps, self.max_step, forces), state
