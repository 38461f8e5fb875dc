"""BFGS: a model of the curvature learnt from the forces along the path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.optim.base import Ragged, join_free, split_free
from geocalc.systems import Systems, max_per_system, per_atom, per_system

SAME_PLACE = 1e-7  # Angstrom; a move smaller than this teaches nothing about the curvature (as ASE)
FLATTEST = 1e-12  # eV/Angstrom^2; keeps the division by a zero curvature finite, far below any real one


@dataclass(frozen=True, kw_only=True)
class BfgsState:
    """What BFGS remembers.

    Attributes:
        hessian: one (n_free, n_free) tensor per structure, eV/Angstrom^2, over its free components only: fixed components
            never move, so their rows would stay diagonal and change nothing.
        positions: (n_atoms, 3) Angstrom, where the last step began.
        forces: (n_atoms, 3) eV/Angstrom there.
    """

    hessian: Ragged = per_system()
    positions: Tensor = per_atom()
    forces: Tensor = per_atom()


@dataclass(frozen=True, kw_only=True)
class Bfgs:
    """Settings of BFGS; the defaults and the update are those of ASE's BFGS.

    Attributes:
        max_step: Angstrom, longest displacement of any one atom; a longer step is scaled down as a whole.
        curvature: eV/Angstrom^2, the Hessian before anything is known is this times unity.

    Source: Nocedal and Wright, Numerical Optimization (2006), sec. 6.1, with curvatures replaced by their absolute values.
    """

    max_step: float = 0.2
    curvature: float = 70.0

    def init(self, systems: Systems) -> BfgsState:
        """State that has learnt nothing yet."""
        free = split_free(systems.positions, systems)
        return BfgsState(
            hessian=Ragged(tuple(self.curvature * torch.eye(len(part), dtype=part.dtype, device=part.device) for part in free)),
            positions=systems.positions,
            forces=torch.zeros_like(systems.positions),
        )

    def step(self, systems: Systems, energy: Tensor, forces: Tensor, state: BfgsState) -> tuple[Tensor, BfgsState]:
        """One quasi-Newton step; see `geocalc.optim.base.Optimizer.step`."""
        moves = split_free(systems.positions - state.positions, systems)
        changes = split_free(state.forces - forces, systems)
        hessians = tuple(_learn(*known) for known in zip(state.hessian, moves, changes, strict=True))
        steps = [_newton(h, f) for h, f in zip(hessians, split_free(forces, systems), strict=True)]
        displacement = join_free(steps, systems)
        longest = max_per_system(displacement.norm(dim=1), systems)
        shorten = torch.where(longest >= self.max_step, self.max_step / longest, 1.0)
        new = BfgsState(hessian=Ragged(hessians), positions=systems.positions, forces=forces)
        return displacement * shorten[systems.system_idx, None], new


def _learn(hessian: Tensor, move: Tensor, change: Tensor) -> Tensor:
    """Hessian after the gradient changed by `change` along `move`, both (n_free,)."""
    if len(move) == 0 or float(move.abs().max()) < SAME_PLACE:
        return hessian
    expected = hessian @ move
    along, known = float(move @ change), float(move @ expected)
    if along == 0.0 or known == 0.0:
        return hessian
    return hessian + torch.outer(change, change) / along - torch.outer(expected, expected) / known


def _newton(hessian: Tensor, forces: Tensor) -> Tensor:
    """Minimum of the quadratic model seen from here, (n_free,), with every curvature taken as positive."""
    if len(forces) == 0:
        return forces
    curvature, axes = torch.linalg.eigh(hessian)
    step: Tensor = axes @ ((forces @ axes) / curvature.abs().clamp(min=FLATTEST))
    return step
