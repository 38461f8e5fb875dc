"""FIRE 2: damped dynamics that mixes velocities after accelerating them, and takes half a step back
when the velocity points uphill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.core.systems import Coordinates, per_row, per_system
from geocalc.optim.base import Ragged, dots_per_system, spread
from geocalc.optim.fire import Pace


@dataclass(frozen=True, kw_only=True)
class Fire2State:
    """State of FIRE 2.

    Attributes:
        velocity: (n_rows, 3), with unit mass: Angstrom per unit of time.
        pace: one `Pace` per structure; `moving` is False after a half step back too.
    """

    velocity: Tensor = per_row()
    pace: Ragged[Pace] = per_system()


@dataclass(frozen=True, kw_only=True)
class Fire2:
    """Settings of FIRE 2; the defaults and the order of operations are those of ASE's FIRE2 without
    its ABC variant.

    Where the velocity points uphill, a structure moves back by half a step and is evaluated there.
    This counts as a step of its own here, while ASE takes it together with the next one; the
    evaluated geometries are the same.

    Attributes:
        time_step: first time step.
        max_time_step: upper limit of the time step.
        min_time_step: lower limit of the time step.
        max_step: Angstrom, longest displacement of a structure, as the norm over all its rows; half
            steps back may be longer.
        n_wait: downhill steps before the time step grows.
        grow: factor of the time step after that.
        shrink: factor of the time step when the velocity points uphill.
        mixing: initial fraction of the velocity that is turned along the forces.
        mixing_decay: factor of this fraction while the time step grows.

    Source: Guenole et al., Comput. Mater. Sci. 175, 109584 (2020), semi-implicit Euler.
    """

    time_step: float = 0.1
    max_time_step: float = 1.0
    min_time_step: float = 2e-3
    max_step: float = 0.2
    n_wait: int = 20
    grow: float = 1.1
    shrink: float = 0.5
    mixing: float = 0.25
    mixing_decay: float = 0.99

    def init(self, coordinates: Coordinates) -> Fire2State:
        """State at rest."""
        return Fire2State(
            velocity=torch.zeros_like(coordinates.positions),
            pace=Ragged((Pace(self.time_step, self.mixing),) * coordinates.n_systems),
        )

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: Fire2State
    ) -> tuple[Tensor, Fire2State]:
        """One step of damped dynamics; see `geocalc.optim.base.Optimizer.step`."""
        old = state.velocity
        products = dots_per_system([(forces, old), (forces, forces), (old, old)], coordinates)
        moves = [self._move(pace, *dots) for pace, dots in zip(state.pace, products, strict=True)]
        kept, pushed, reach, back = spread([weights for _, weights in moves], coordinates)
        velocity = torch.addcmul(kept * old, pushed, forces)
        displacement = torch.addcmul(reach * velocity, back, old)
        return displacement, Fire2State(
            velocity=velocity, pace=Ragged(tuple(pace for pace, _ in moves))
        )

    def _move(
        self, pace: Pace, power: float, force_square: float, speed_square: float
    ) -> tuple[Pace, tuple[float, float, float, float]]:
        """The next pace, and: velocity = kept * old + pushed * forces, displacement = reach *
        velocity + back * old.
        """
        time_step, mixing, n_downhill, moving = pace
        if power > 0:
            n_downhill += 1
            if n_downhill > self.n_wait:
                time_step, mixing = (
                    min(time_step * self.grow, self.max_time_step),
                    mixing * self.mixing_decay,
                )
        elif moving:
            time_step = max(time_step * self.shrink, self.min_time_step)
            return Pace(time_step, self.mixing), (0.0, 0.0, 0.0, -0.5 * time_step)
        # the velocity is accelerated, then mixed; no term of the squares is negative
        pushed_square = speed_square + time_step * (2.0 * power + time_step * force_square)
        kept = 1.0 - mixing
        pushed = kept * time_step
        if force_square > 0:
            pushed += mixing * math.sqrt(pushed_square / force_square)
        speed = math.sqrt(
            kept * (kept * speed_square + 2.0 * pushed * power) + pushed * pushed * force_square
        )
        reach = self.max_step / speed if time_step * speed > self.max_step else time_step
        return Pace(time_step, mixing, n_downhill, True), (kept, pushed, reach, 0.0)
