"""Our own optimiser: quasi-Newton steps that begin with a good guess of the curvature and stay where they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geocalc.optim.base import Ragged, dot_per_system
from geocalc.optim.force_constants import spring_hessians
from geocalc.systems import Systems, max_per_system, per_atom, per_system, sum_per_system

SHORTEST_TRUST = 0.01  # Angstrom; below it forces change by less than what a float32 model resolves
GOOD, BAD = 0.6, 0.2  # share of the predicted gain that was found: above, longer steps are allowed; below, shorter ones
NOISE = 1e-5  # eV; a rise of the energy below that is the rounding of a float32 model, not a hill
PLAIN = (
    1 / 70
)  # Angstrom^2/eV; along the forces where the guess of the curvature has broken down, as stiff as ASE's BFGS begins
SAME_PLACE = 1e-7  # Angstrom; a move smaller than this teaches nothing about the curvature


@dataclass(frozen=True, kw_only=True)
class QuasiNewtonState:
    """What the method remembers; the anchor is the best place so far, from which the next step is taken.

    Attributes:
        inverse: one (n_free, n_free) inverse Hessian per structure, Angstrom^2/eV, over its free components.
        positions: (n_atoms, 3) Angstrom, of the anchor. forces: (n_atoms, 3) eV/Angstrom there, zero on fixed components.
        energy: (n_systems,) eV there.
        gain: (n_systems,) eV, what the last step was to win; NaN before the first.
        share: (n_systems,) by how much that step was shortened.
        length: (n_systems,) Angstrom, longest displacement of an atom in it.
        trust: (n_systems,) Angstrom, longest displacement of an atom that is allowed now.
    """

    inverse: Ragged = per_system()
    positions: Tensor = per_atom()
    forces: Tensor = per_atom()
    energy: Tensor = per_system()
    gain: Tensor = per_system()
    share: Tensor = per_system()
    length: Tensor = per_system()
    trust: Tensor = per_system()


@dataclass(frozen=True, kw_only=True)
class QuasiNewton:
    """Settings of the trust-region quasi-Newton method.

    It starts from springs between neighbours (`geocalc.optim.force_constants`), learns the inverse Hessian by damped BFGS updates, and
    takes back a step after which neither the energy nor the work of the forces went down. The second test makes it safe for forces that
    are not the gradient of the energy.

    Attributes:
        trust: Angstrom, longest displacement of any atom in the first step.
        max_step: Angstrom, longest ever.
        damping: smallest curvature along a step that is learnt, as a share of the expected one.

    Source: Nocedal and Wright, Numerical Optimization (2006), procedure 18.2 (damped BFGS) and algorithm 4.1 (trust region).
    """

    trust: float = 0.25
    max_step: float = 0.5
    damping: float = 0.1

    def init(self, systems: Systems) -> QuasiNewtonState:
        """State that knows springs and nothing else."""
        inverse = tuple(torch.from_numpy(_invert(hessian)) for hessian in spring_hessians(systems))
        unknown = systems.positions.new_full((systems.n_systems,), torch.nan)
        return QuasiNewtonState(
            inverse=Ragged(inverse),
            positions=systems.positions,
            forces=torch.zeros_like(systems.positions),
            energy=unknown,
            gain=unknown,
            share=unknown,
            length=unknown,
            trust=torch.full_like(unknown, self.trust),
        )

    def step(
        self, systems: Systems, energy: Tensor, forces: Tensor, state: QuasiNewtonState
    ) -> tuple[Tensor, QuasiNewtonState]:
        """One step from the better of here and the anchor; see `geocalc.optim.base.Optimizer.step`."""
        move = systems.positions - state.positions
        won = torch.maximum(state.energy - energy, 0.5 * dot_per_system(state.forces + forces, move, systems))
        worse = won < BAD * state.gain - NOISE  # false before the first step, as is every comparison with NaN
        better = (won > GOOD * state.gain) & (state.share < 1)
        trust = torch.where(worse, (BAD * state.length).clamp(min=SHORTEST_TRUST), state.trust)
        trust = torch.where(better, (2 * trust).clamp(max=self.max_step), trust)
        stays = (won < -NOISE) & (state.length > SHORTEST_TRUST)
        back = stays[systems.system_idx, None]
        anchor, pull = torch.where(back, state.positions, systems.positions), torch.where(back, state.forces, forces)

        free = (~systems.fixed).cpu().numpy()
        ends = np.cumsum(sum_per_system((~systems.fixed).sum(1), systems).cpu().numpy())
        flat = np.stack([values.cpu().numpy()[free] for values in (move, state.forces, forces, pull)])
        steps, inverses, start = np.zeros(systems.positions.shape), [], 0
        found = np.empty(flat.shape[1])
        for known, share, end in zip(state.inverse, state.share.tolist(), ends.tolist(), strict=True):
            here, before, now, downhill = flat[:, start:end].copy()
            inverse = _learn(known.numpy(), share, here, before, now, self.damping)
            found[start:end] = inverse @ downhill
            inverses.append(torch.from_numpy(inverse))
            start = end
        steps[free] = found
        step = torch.from_numpy(steps).to(anchor.device)
        slope = dot_per_system(step, pull, systems)
        broken = (slope <= 0)[systems.system_idx, None]
        step = torch.where(broken, PLAIN * pull, step)
        slope = torch.where(slope <= 0, PLAIN * dot_per_system(pull, pull, systems), slope)
        longest = max_per_system(step.norm(dim=1), systems)
        share = torch.where(longest > trust, trust / longest, 1.0)
        new = QuasiNewtonState(
            inverse=Ragged(tuple(inverses)),
            positions=anchor,
            forces=pull,
            energy=torch.where(stays, state.energy, energy),
            gain=share * (1 - 0.5 * share) * slope,
            share=share,
            length=share * longest,
            trust=trust,
        )
        return anchor + share[systems.system_idx, None] * step - systems.positions, new


def _invert(hessian: np.ndarray) -> np.ndarray:
    inverse: np.ndarray = np.linalg.inv(hessian) if len(hessian) else hessian
    return 0.5 * (inverse + inverse.T)


def _learn(
    inverse: np.ndarray, share: float, move: np.ndarray, before: np.ndarray, now: np.ndarray, damping: float
) -> np.ndarray:
    """Inverse Hessian (n_free, n_free) after a damped BFGS update; vectors are (n_free,).

    The last step was `share * inverse @ before`, so the forces were expected to fall by `share * before` along it; `share` is NaN
    before the first step.
    """
    if share != share or len(move) == 0 or float(np.abs(move).max()) < SAME_PLACE:
        return inverse
    change, expected = before - now, share * before
    measured, guessed = float(move @ change), float(move @ expected)
    if measured < damping * guessed:
        mix = (1 - damping) * guessed / (guessed - measured)
        change = mix * change + (1 - mix) * expected
        measured = float(move @ change)
    if not measured > 0:
        return inverse
    mapped = inverse @ change
    weight = 0.5 * (1 + float(change @ mapped) / measured)
    cross = np.multiply.outer(move, (weight * move - mapped) / measured)
    updated: np.ndarray = inverse + cross
    updated += cross.T
    return updated
