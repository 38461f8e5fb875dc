"""Trust-region quasi-Newton: steps from a model Hessian of springs, updated along the path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsymv, dsyr2
from scipy.linalg.lapack import dposv, dpotrf, dpotri, dpotrs
from torch import Tensor

from geocalc.core.systems import Coordinates, Systems, per_row, per_system
from geocalc.errors import InputError
from geocalc.optim.base import Floats, FreeComponents, Ragged
from geocalc.optim.force_constants import spring_hessians

SHORTEST_TRUST = 0.01  # Angstrom; below it changes of forces are lost in float32 rounding
# ratio of the actual to the predicted gain above which the trust radius grows and below which it
# shrinks
GOOD, BAD = 0.6, 0.2
NOISE = 1e-5  # eV; a smaller rise of the energy may be rounding of a float32 model
# Angstrom^2/eV; inverse Hessian where the model has failed, that of the first step of ASE's BFGS
PLAIN = 1 / 70
SLACK = 0.25  # a step that is longer than allowed by up to this fraction is scaled down
TRIALS = 6  # solves for a step of the right length
SAME_PLACE = 1e-7  # Angstrom; smaller moves do not update the Hessian


class Memory(NamedTuple):
    """Memory of one structure; the anchor is the point that the last step started from.

    Attributes:
        atoms: (n_free,) atom of each free component.
        inverse: (n_free, n_free) inverse Hessian, Angstrom^2/eV, lower triangle in Fortran order.
        energy: eV at the anchor.
        gain: eV, predicted gain of the last step; NaN before the first.
        shift: eV/Angstrom^2, added to the curvature for that step.
        share: factor that the step was then scaled by.
        length: Angstrom, longest displacement of an atom in it.
        trust: Angstrom, trust radius: longest displacement of an atom that is allowed now.
    """

    atoms: NDArray[np.int64]
    inverse: Floats
    trust: float
    energy: float = math.nan
    gain: float = math.nan
    shift: float = math.nan
    share: float = math.nan
    length: float = math.nan


@dataclass(frozen=True, kw_only=True)
class QuasiNewtonState:
    """State of a batch.

    Attributes:
        memory: of each structure.
        positions: (n_atoms, 3) Angstrom, of the anchors.
        forces: (n_atoms, 3) eV/Angstrom at the anchors.
    """

    memory: Ragged[Memory] = per_system()
    positions: Tensor = per_row()
    forces: Tensor = per_row()


@dataclass(frozen=True, kw_only=True)
class QuasiNewton:
    """Settings of the trust-region quasi-Newton method.

    The first Hessian is that of springs between neighbors (`geocalc.optim.force_constants`). Damped
    BFGS updates change its inverse where the measured curvature is positive. Steps along soft
    directions are limited to the trust radius. A step is taken back if it neither lowered the
    energy nor gained work by the forces; the second criterion covers forces that are not the
    gradient of the energy.

    Attributes:
        max_step: Angstrom, longest displacement of any atom in a step, also in the first. Longer
            ones save few calls and leave shallow basins.
        damping: smallest curvature along a step that is learned, as a fraction of the expected one.

    Source: Nocedal and Wright, Numerical Optimization (2006), procedure 18.2 (damped BFGS),
    algorithms 4.1 and 4.3 (trust region).
    """

    max_step: float = 0.2
    damping: float = 0.1

    def init(self, coordinates: Coordinates) -> QuasiNewtonState:
        """State with the Hessian of springs.

        Raises:
            InputError: cells are to be relaxed.
        """
        if not isinstance(coordinates, Systems):
            raise InputError(
                "quasi-newton starts from springs between atoms, and cells have none; use bfgs to"
                " relax a cell or to keep a symmetry"
            )
        known = zip(
            FreeComponents.of(coordinates).rows(), spring_hessians(coordinates), strict=True
        )
        memory = tuple(Memory(atoms, _invert(hessian), self.max_step) for atoms, hessian in known)
        zero = coordinates.positions.new_zeros(coordinates.positions.shape)
        return QuasiNewtonState(memory=Ragged(memory), positions=coordinates.positions, forces=zero)

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: QuasiNewtonState
    ) -> tuple[Tensor, QuasiNewtonState]:
        """One step from the better of the present point and the anchor; see
        `geocalc.optim.base.Optimizer.step`.
        """
        free = FreeComponents.of(coordinates)
        parts = free.split(coordinates.positions - state.positions, state.forces, forces)
        known = zip(state.memory, energy.tolist(), parts, strict=True)
        plans = [self._plan(m, e, move, before, now) for m, e, (move, before, now) in known]
        displacement = free.join([plan.step for plan in plans], math.inf, forces)
        positions, force = coordinates.positions, forces
        if any(plan.back for plan in plans):
            returns = coordinates.positions.new_tensor([plan.back for plan in plans]).bool()[
                coordinates.system_idx, None
            ]
            positions, force = (
                state.positions.where(returns, positions),
                state.forces.where(returns, forces),
            )
            displacement = displacement + (positions - coordinates.positions)
        memory = Ragged(tuple(plan.memory for plan in plans))
        return displacement, QuasiNewtonState(memory=memory, positions=positions, forces=force)

    def _plan(
        self, memory: Memory, energy: float, move: Floats, before: Floats, now: Floats
    ) -> _Plan:
        """The next step of one structure.

        Args:
            memory: of the structure.
            energy: eV, now.
            move: (n_free,) Angstrom from the anchor to the present point.
            before, now: (n_free,) eV/Angstrom, forces at the anchor and now.
        """
        inverse, trust, back = memory.inverse, memory.trust, False
        if not math.isnan(memory.gain) and len(move):
            inverse = _learn(
                inverse,
                move,
                before - now,
                memory.share * before - memory.shift * move,
                self.damping,
            )
            won = max(memory.energy - energy, 0.5 * float((before + now) @ move))
            back = won < -NOISE and memory.length > SHORTEST_TRUST
            if won < BAD * memory.gain - NOISE:
                trust = max(BAD * memory.length, SHORTEST_TRUST)
            elif won > GOOD * memory.gain and (memory.shift > 0 or memory.share < 1):
                trust = min(2 * trust, self.max_step)
        force = before if back else now
        step = dsymv(1.0, inverse, force, lower=1) if len(force) else force
        slope = float(step @ force)
        if slope <= 0:  # the model Hessian has failed
            inverse = np.asfortranarray(PLAIN * np.eye(len(force)))
            step = PLAIN * force
        longest, shift = _longest(step, memory.atoms), 0.0
        if longest > trust:
            step, shift = _held_back(step, inverse, trust, memory.atoms)
            longest = _longest(step, memory.atoms)
        share = min(1.0, trust / longest) if longest else 1.0
        step = share * step
        new = Memory(
            atoms=memory.atoms,
            inverse=inverse,
            trust=trust,
            energy=memory.energy if back else energy,
            gain=0.5 * float((2 - share) * step @ force + shift * step @ step),
            shift=shift,
            share=share,
            length=share * longest,
        )
        return _Plan(new, step, back)


class _Plan(NamedTuple):
    """The next step of one structure.

    Attributes:
        memory: after the step.
        step: (n_free,) Angstrom from the anchor.
        back: whether the last step is taken back, so that the anchor stays.
    """

    memory: Memory
    step: Floats
    back: bool


def _longest(step: Floats, atoms: NDArray[np.int64]) -> float:
    """Longest displacement of an atom, Angstrom."""
    return math.sqrt(np.bincount(atoms, step * step).max()) if len(step) else 0.0


def _held_back(
    step: Floats, inverse: Floats, trust: float, atoms: NDArray[np.int64]
) -> tuple[Floats, float]:
    """Limit a step to the trust radius by adding a multiple of unity to the Hessian.

    This shortens the step along soft directions and hardly along stiff ones, while scaling would
    shorten both.

    Args:
        step: (n_free,) Angstrom, of the Hessian alone.
        inverse: (n_free, n_free) Angstrom^2/eV, lower triangle.
        trust: Angstrom.
        atoms: (n_free,) atom of each component.
    Returns:
        The step (n_free,) in Angstrom, and the multiple in eV/Angstrom^2.
    Source: More and Sorensen, SIAM J. Sci. Stat. Comput. 4, 553 (1983): Newton's method for the
    reciprocal length.
    """
    short, factor, shift = step, None, 0.0
    for _ in range(TRIALS):
        excess = _longest(short, atoms) / trust - 1
        if excess <= SLACK:
            break
        softer = dsymv(1.0, inverse, short, lower=1)
        if factor is not None:
            softer, _ = dpotrs(factor, softer, lower=1)
        shift += excess * float(short @ short) / float(short @ softer)
        raised = shift * inverse
        raised.ravel(order="K")[:: len(step) + 1] += 1
        factor, found, failed = dposv(raised, step, lower=1, overwrite_a=1)
        if failed:
            break
        short = found
    return short, shift


def _invert(hessian: Floats) -> Floats:
    """Lower triangle of the inverse of a positive definite array."""
    if len(hessian) == 0:
        return hessian
    factor, _ = dpotrf(hessian, lower=1)
    inverse: Floats = dpotri(factor, lower=1)[0]
    return inverse


def _learn(
    inverse: Floats, move: Floats, change: Floats, expected: Floats, damping: float
) -> Floats:
    """Update the inverse Hessian by damped BFGS.

    Args:
        inverse: (n_free, n_free) Angstrom^2/eV, lower triangle.
        move: (n_free,) Angstrom.
        change: (n_free,) eV/Angstrom, by which the forces fell along the move.
        expected: (n_free,) eV/Angstrom, the same by the present Hessian.
        damping: see `QuasiNewton`.
    """
    measured, guessed = float(move @ change), float(move @ expected)
    if float(move @ move) < SAME_PLACE**2:
        return inverse
    if not measured > 0:
        # negative curvature: an update would make the next steps long, into other basins
        return inverse
    if measured < damping * guessed:
        mix = (1 - damping) * guessed / (guessed - measured)
        change = mix * change + (1 - mix) * expected
        measured = float(move @ change)
    mapped = dsymv(1.0, inverse, change, lower=1)
    weight = 0.5 * (1 + float(change @ mapped) / measured)
    learned: Floats = dsyr2(1.0 / measured, move, weight * move - mapped, lower=1, a=inverse)
    return learned
