"""Monotone L-BFGS: a minimizer whose accepted energies never rise, for large glasses.

Thermal configurations of a glass have many directions of negative curvature. Plain L-BFGS
(`geocalc.optim.lbfgs`, that of ASE) takes its curvature from these steps too and then walks uphill,
and its fixed first curvature fits atoms in eV and Angstrom. The dense methods would store a matrix
over all coordinates of thousands of particles. This method shares the two-loop recursion with plain
L-BFGS and differs in three points: it learns from positive curvature only, it scales the first
Hessian by the last step, and it takes half of a step back whenever the energy has risen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from geocalc.core.systems import Coordinates, per_row, per_system
from geocalc.optim.base import Floats, FreeComponents, Ragged
from geocalc.optim.lbfgs import History

ROUNDING = 1e-12  # relative; a smaller rise of the energy is rounding
HALVINGS = 4  # of one step; after them the history is forgotten
CURVED = 1e-8  # smallest cosine between a step and the change of the gradient that is learned


class LbfgsMemory(NamedTuple):
    """Memory of one structure; the anchor is the last point with an energy lower than all before.

    Attributes:
        history: steps between anchors.
        energy: at the anchor.
        n_halved: halvings of the step from the anchor.
    """

    history: History
    energy: float = math.inf
    n_halved: int = 0


class _Plan(NamedTuple):
    """The next step of one structure from its present point.

    Attributes:
        step: (n_free,).
        memory: after this step.
        lower: whether the present point is the new anchor.
    """

    step: Floats
    memory: LbfgsMemory
    lower: bool


@dataclass(frozen=True, kw_only=True)
class MonotoneLbfgsState:
    """State of monotone L-BFGS.

    Attributes:
        memory: of each structure.
        positions: (n_rows, 3) of the anchors.
        forces: (n_rows, 3) at the anchors.
    """

    memory: Ragged[LbfgsMemory] = per_system()
    positions: Tensor = per_row()
    forces: Tensor = per_row()


@dataclass(frozen=True, kw_only=True)
class MonotoneLbfgs:
    """Settings of monotone L-BFGS, a `geocalc.optim.Optimizer`.

    Attributes:
        max_step: longest displacement of any one particle along x, y or z.
        memory: steps that are remembered.
        curvature: energy per squared length; the Hessian before the first step is this times unity.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4 (two loops) with
    backtracking (3.1).
    """

    max_step: float = 0.1
    memory: int = 20
    curvature: float = 200.0

    def init(self, coordinates: Coordinates) -> MonotoneLbfgsState:
        """State before the first step."""
        sizes = FreeComponents.of(coordinates).sizes
        return MonotoneLbfgsState(
            memory=Ragged(tuple(LbfgsMemory(History.empty(n_free)) for n_free in sizes)),
            positions=coordinates.positions,
            forces=coordinates.positions.new_zeros(coordinates.positions.shape),
        )

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: MonotoneLbfgsState
    ) -> tuple[Tensor, MonotoneLbfgsState]:
        """Compute one step; see `geocalc.optim.base.Optimizer.step`."""
        free = FreeComponents.of(coordinates)
        parts = free.split(coordinates.positions - state.positions, state.forces, forces)
        plans = [
            self._plan(*known) for known in zip(state.memory, energy.tolist(), parts, strict=True)
        ]
        displacement = free.join([plan.step for plan in plans], math.inf, forces)
        here = coordinates.positions.new_tensor([plan.lower for plan in plans]).bool()[
            coordinates.system_idx, None
        ]
        return displacement, MonotoneLbfgsState(
            memory=Ragged(tuple(plan.memory for plan in plans)),
            positions=coordinates.positions.where(here, state.positions),
            forces=forces.where(here, state.forces),
        )

    def _plan(self, memory: LbfgsMemory, energy: float, part: Floats) -> _Plan:
        """The next step of one structure.

        Args:
            memory: of the structure.
            energy: at the present point.
            part: (3, n_free), the move from the anchor, forces at the anchor and present forces.
        """
        move, before, now = part
        if energy <= memory.energy + ROUNDING * abs(energy):
            memory = LbfgsMemory(self._learned(memory.history, move, before - now), energy)
            return _Plan(self._bounded(self._newton(memory.history, now)), memory, True)
        if memory.n_halved < HALVINGS:
            return _Plan(-move / 2, memory._replace(n_halved=memory.n_halved + 1), False)
        plain = self._bounded(before / self.curvature)
        return _Plan(plain - move, LbfgsMemory(History.empty(len(move)), memory.energy), False)

    def _learned(self, history: History, move: Floats, change: Floats) -> History:
        """The history with one more step, where the curvature along it is positive."""
        if not move @ change > CURVED * math.sqrt((move @ move) * (change @ change)):
            return history
        return history.extended(np.stack((move, change)), self.memory)

    def _newton(self, history: History, forces: Floats) -> Floats:
        """The step to the minimum of the model, (n_free,)."""
        if not history.length:
            return forces / self.curvature
        move, change = history.pairs[-1]
        return history.newton_step(forces, (change @ change) / (move @ change))

    def _bounded(self, step: Floats) -> Floats:
        """The step, scaled down where a particle would move too far."""
        longest = float(np.abs(step).max(initial=0.0))
        return step * min(1.0, self.max_step / longest) if longest > 0 else step
