"""FIRE: damped dynamics that gathers speed downhill and stops dead when it turns uphill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.optim.base import dot_per_system
from geocalc.systems import Systems, per_atom, per_system


@dataclass(frozen=True, kw_only=True)
class FireState:
    """What FIRE remembers.

    Attributes:
        velocity: (n_atoms, 3), with unit mass: Angstrom per unit of time.
        time_step: (n_systems,).
        mixing: (n_systems,) share of the velocity that is turned along the forces.
        n_downhill: (n_systems,) int64, steps since the velocity last pointed uphill.
        moving: (n_systems,) bool, False before the first step.
    """

    velocity: Tensor = per_atom()
    time_step: Tensor = per_system()
    mixing: Tensor = per_system()
    n_downhill: Tensor = per_system()
    moving: Tensor = per_system()


@dataclass(frozen=True, kw_only=True)
class Fire:
    """Settings of FIRE; the defaults and the order of operations are those of ASE's FIRE.

    Attributes:
        time_step: first time step.
        max_time_step: the time step never grows beyond this.
        max_step: Angstrom, longest displacement of a structure, as the norm over all its atoms.
        n_wait: downhill steps before the time step grows.
        grow: factor of the time step after that.
        shrink: factor of the time step when the velocity points uphill.
        mixing: first share of the velocity that is turned along the forces.
        mixing_decay: factor of that share while the time step grows.

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

    def init(self, systems: Systems) -> FireState:
        """State at rest."""
        one = systems.positions.new_ones(systems.n_systems)
        return FireState(
            velocity=torch.zeros_like(systems.positions),
            time_step=self.time_step * one,
            mixing=self.mixing * one,
            n_downhill=torch.zeros_like(one, dtype=torch.int64),
            moving=torch.zeros_like(one, dtype=torch.bool),
        )

    def step(self, systems: Systems, energy: Tensor, forces: Tensor, state: FireState) -> tuple[Tensor, FireState]:
        """One step of damped dynamics; see `geocalc.optim.base.Optimizer.step`."""
        owner = systems.system_idx
        power = dot_per_system(forces, state.velocity, systems)
        downhill, uphill = (power > 0) & state.moving, ~(power > 0) & state.moving

        force_norm = dot_per_system(forces, forces, systems).sqrt()
        speed = dot_per_system(state.velocity, state.velocity, systems).sqrt()
        towards = torch.where(downhill, state.mixing * speed / force_norm, 0.0)
        kept = torch.where(downhill, 1.0 - state.mixing, torch.where(uphill, 0.0, 1.0))
        velocity = kept[owner, None] * state.velocity + towards[owner, None] * forces

        faster = downhill & (state.n_downhill > self.n_wait)
        time_step = torch.where(faster, (state.time_step * self.grow).clamp(max=self.max_time_step), state.time_step)
        time_step = torch.where(uphill, time_step * self.shrink, time_step)
        mixing = torch.where(faster, state.mixing * self.mixing_decay, state.mixing)
        mixing = torch.where(uphill, self.mixing, mixing)

        velocity = velocity + time_step[owner, None] * forces
        displacement = time_step[owner, None] * velocity
        length = dot_per_system(displacement, displacement, systems).sqrt()
        shorten = torch.where(length > self.max_step, self.max_step / length, 1.0)
        return displacement * shorten[owner, None], FireState(
            velocity=velocity,
            time_step=time_step,
            mixing=mixing,
            n_downhill=torch.where(downhill, state.n_downhill + 1, 0),
            moving=torch.ones_like(state.moving),
        )
