"""FIRE: damped dynamics that speeds up downhill and stops when the velocity points uphill."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from geocalc.core.systems import Coordinates, per_row, per_system
from geocalc.optim.base import Ragged, dots_per_system, spread


class Pace(NamedTuple):
    """Time step and damping of one structure.

    Attributes:
        time_step: of the next step.
        mixing: fraction of the velocity that is turned along the forces.
        n_downhill: steps since the velocity last pointed uphill.
        moving: False before the first step.
    """

    time_step: float
    mixing: float
    n_downhill: int = 0
    moving: bool = False


@dataclass(frozen=True, kw_only=True)
class FireState:
    """State of FIRE.

    Attributes:
        velocity: (n_rows, 3), with unit mass: Angstrom per unit of time.
        pace: one `Pace` per structure.
    """

    velocity: Tensor = per_row()
    pace: Ragged[Pace] = per_system()


@dataclass(frozen=True, kw_only=True)
class Fire:
    """Settings of FIRE; the defaults and the order of operations are those of ASE's FIRE.

    Attributes:
        time_step: first time step.
        max_time_step: upper limit of the time step.
        max_step: Angstrom, longest displacement of a structure, as the norm over all its rows.
        n_wait: downhill steps before the time step grows.
        grow: factor of the time step after that.
        shrink: factor of the time step when the velocity points uphill.
        mixing: initial fraction of the velocity that is turned along the forces.
        mixing_decay: factor of this fraction while the time step grows.

    Source: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006).
    """

    time_step: float = 0.1
    max_time_step: float = 1.0
    max_step: float = 0.2
    n_wait: int = 5
    grow: float = 1.1
    shrink: float = 0.5
    mixing: float = 0.1
    mixing_decay: float = 0.99

    def init(self, coordinates: Coordinates) -> FireState:
        """State at rest."""
        return FireState(
            velocity=torch.zeros_like(coordinates.positions),
            pace=Ragged((Pace(self.time_step, self.mixing),) * coordinates.n_systems),
        )

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: FireState
    ) -> tuple[Tensor, FireState]:
        """One step of damped dynamics; see `geocalc.optim.base.Optimizer.step`."""
        old = state.velocity
        products = dots_per_system([(forces, old), (forces, forces), (old, old)], coordinates)
        moves = [self._move(pace, *dots) for pace, dots in zip(state.pace, products, strict=True)]
        kept, pushed, reach = spread([weights for _, weights in moves], coordinates)
        velocity = torch.addcmul(kept * old, pushed, forces)
        return reach * velocity, FireState(
            velocity=velocity, pace=Ragged(tuple(pace for pace, _ in moves))
        )

    def _move(
        self, pace: Pace, power: float, force_square: float, speed_square: float
    ) -> tuple[Pace, tuple[float, float, float]]:
        """The next pace, and: velocity = kept * velocity + pushed * forces, displacement = reach *
        velocity.
        """
        time_step, mixing, n_downhill, moving = pace
        kept = turned = 0.0
        if power > 0 and force_square > 0:
            kept, turned = 1.0 - mixing, mixing * math.sqrt(speed_square / force_square)
            if n_downhill > self.n_wait:
                time_step, mixing = (
                    min(time_step * self.grow, self.max_time_step),
                    mixing * self.mixing_decay,
                )
            n_downhill += 1
        elif moving:
            time_step, mixing, n_downhill = time_step * self.shrink, self.mixing, 0
        pushed = turned + time_step
        # no term is negative: `kept` is zero unless `power` is positive
        speed = math.sqrt(
            kept * (kept * speed_square + 2.0 * pushed * power) + pushed * pushed * force_square
        )
        reach = self.max_step / speed if time_step * speed > self.max_step else time_step
        return Pace(time_step, mixing, n_downhill, True), (kept, pushed, reach)
