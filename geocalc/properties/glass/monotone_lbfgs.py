"""L-BFGS that never climbs, for thousands of particles far from their minimum.

A thermal glass is full of directions of negative curvature, from which plain L-BFGS learns to walk
uphill; the dense method that is geocalc's default stores a matrix of all coordinates. This one
learns only from positive curvature, and takes half of a step back whenever the energy has risen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from geocalc.core.systems import Coordinates, per_row, per_system
from geocalc.optim.base import Floats, FreeComponents, Ragged

ROUNDING = 1e-12  # of the energy; a rise below that is none
HALVINGS = 4  # of one step; after them the curvature is forgotten
CURVED = 1e-8  # smallest cosine between a step and the change of the gradient that is learned


Pairs = tuple[tuple[Floats, Floats], ...]


class Memory(NamedTuple):
    """What is remembered of one structure; the anchor is the last place that was lower than all
    before.

    Attributes:
        energy: at the anchor.
        pairs: steps and changes of the gradient, (n_free,) each, oldest first.
        n_halved: how often the step from the anchor was halved.
    """

    energy: float = math.inf
    pairs: Pairs = ()
    n_halved: int = 0


class _Plan(NamedTuple):
    """The next step of one structure from here, what it remembers, and whether here is the new
    anchor.
    """

    step: Floats
    memory: Memory
    lower: bool


@dataclass(frozen=True, kw_only=True)
class DownhillState:
    """What is remembered of a batch; `positions` (n_atoms, 3) and `forces` (n_atoms, 3) are those
    of the anchors.
    """

    memory: Ragged[Memory] = per_system()
    positions: Tensor = per_row()
    forces: Tensor = per_row()


@dataclass(frozen=True, kw_only=True)
class Downhill:
    """Settings of the method, an `geocalc.optim.Optimizer`.

    Attributes:
        max_step: longest displacement of any one particle along x, y or z.
        memory: steps that are remembered.
        curvature: energy per squared length, the Hessian before anything is known is this times
            unity.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4 (two loops) with
    backtracking (3.1).
    """

    max_step: float = 0.1
    memory: int = 20
    curvature: float = 200.0

    def init(self, coordinates: Coordinates) -> DownhillState:
        """State that has learned nothing yet."""
        nothing = Ragged((Memory(),) * coordinates.n_systems)
        return DownhillState(
            memory=nothing,
            positions=coordinates.positions,
            forces=coordinates.positions.new_zeros(coordinates.positions.shape),
        )

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: DownhillState
    ) -> tuple[Tensor, DownhillState]:
        """One step; see `geocalc.optim.base.Optimizer.step`."""
        free = FreeComponents.of(coordinates)
        parts = free.split(coordinates.positions - state.positions, state.forces, forces)
        plans = [
            self._plan(*known) for known in zip(state.memory, energy.tolist(), parts, strict=True)
        ]
        displacement = free.join([plan.step for plan in plans], math.inf, forces)
        here = coordinates.positions.new_tensor([plan.lower for plan in plans]).bool()[
            coordinates.system_idx, None
        ]
        positions = coordinates.positions.where(here, state.positions)
        memory = Ragged(tuple(plan.memory for plan in plans))
        return displacement, DownhillState(
            memory=memory, positions=positions, forces=forces.where(here, state.forces)
        )

    def _plan(self, memory: Memory, energy: float, part: Floats) -> _Plan:
        """The next step of one structure, from here.

        Args:
            memory: of the structure.
            energy: here.
            part: (3, n_free), the move from the anchor, forces there and forces here.
        """
        move, before, now = part
        if energy <= memory.energy + ROUNDING * abs(energy):
            memory = Memory(energy, self._learnt(memory.pairs, move, before - now))
            return _Plan(self._bounded(self._newton(memory.pairs, now)), memory, True)
        if memory.n_halved < HALVINGS:
            return _Plan(-move / 2, memory._replace(n_halved=memory.n_halved + 1), False)
        plain = self._bounded(before / self.curvature)
        return _Plan(plain - move, Memory(memory.energy), False)

    def _learnt(self, pairs: Pairs, move: Floats, change: Floats) -> Pairs:
        """The pairs with this one, where the curvature along it is positive, and without the
        oldest.
        """
        if not move @ change > CURVED * math.sqrt((move @ move) * (change @ change)):
            return pairs
        return (*pairs, (move.copy(), change.copy()))[-self.memory :]

    def _bounded(self, step: Floats) -> Floats:
        """The step, made shorter where a particle would go too far."""
        longest = float(np.abs(step).max(initial=0.0))
        return step * min(1.0, self.max_step / longest) if longest > 0 else step

    def _newton(self, pairs: Pairs, forces: Floats) -> Floats:
        """Where the quadratic model that was learned has its minimum, (n_free,) from the place of
        these forces.
        """
        direction = forces.copy()
        weights = []
        for step, change in reversed(pairs):
            weights.append((step @ direction) / (step @ change))
            direction -= weights[-1] * change
        if pairs:
            step, change = pairs[-1]
            direction *= (step @ change) / (change @ change)
        else:
            direction /= self.curvature
        for (step, change), weight in zip(pairs, reversed(weights), strict=True):
            direction += (weight - (change @ direction) / (step @ change)) * step
        return direction
