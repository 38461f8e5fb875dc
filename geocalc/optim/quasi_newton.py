"""Trust-region quasi-Newton: steps from a model Hessian of springs, updated along the path.

All structures of a batch are computed together, in stacks of about the same size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from geocalc.core.systems import Coordinates, per_row, per_system
from geocalc.optim.force_constants import spring_hessians
from geocalc.optim.stacks import (
    Array,
    Stacks,
    as_array,
    as_tensor,
    gathered,
    library_of,
    scattered,
)

SHORTEST_TRUST = 0.01  # Angstrom; below it changes of forces are lost in float32 rounding
# ratio of the actual to the predicted gain above which the trust radius grows and below which it
# shrinks
GOOD, BAD = 0.6, 0.2
NOISE = 1e-5  # eV; a smaller rise of the energy may be rounding of a float32 model
# Angstrom^2/eV; inverse Hessian where the model has failed, that of the first step of ASE's BFGS
PLAIN = 1 / 70
SLACK = 0.25  # a step that is longer than allowed by up to this fraction is scaled down
TRIALS = 6  # multiples of unity that are tried for a step of the right length
KRYLOV = 3  # vectors that a step which is held back is made of
# added to the products of unit vectors, which may be parallel; and to lengths, which may be zero
ROUNDING, TINY = 1e-12, 1e-300
SAME_PLACE = 1e-7  # Angstrom; smaller moves do not update the Hessian


class Memory(NamedTuple):
    """Memory of structures, (n,) each; the anchor is the point that the last step started from.

    Attributes:
        trust: Angstrom, trust radius: longest displacement of an atom that is allowed now.
        energy: eV at the anchor.
        gain: eV, predicted gain of the last step; NaN before the first.
        shift: eV/Angstrom^2, added to the curvature for that step.
        share: factor that the step was then scaled by.
        length: Angstrom, longest displacement of an atom in it.
    """

    trust: Array
    energy: Array
    gain: Array
    shift: Array
    share: Array
    length: Array


@dataclass(frozen=True, kw_only=True)
class QuasiNewtonState:
    """State of a batch.

    Attributes:
        inverse: inverse Hessians, Angstrom^2/eV.
        memory: (n_systems, 6), the fields of `Memory` in columns.
        positions: (n_atoms, 3) Angstrom, of the anchors.
        forces: (n_atoms, 3) eV/Angstrom at the anchors.
    """

    inverse: Stacks = per_system()
    memory: Tensor = per_system()
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
            InputError: the coordinates are neither atoms nor atoms and cells.
        """
        inverse = tuple(
            replace(stack, matrix=library_of(stack.matrix).linalg.inv(stack.matrix))
            for stack in spring_hessians(coordinates)
        )
        memory = coordinates.positions.new_full(
            (coordinates.n_systems, len(Memory._fields)), math.nan
        )
        memory[:, 0] = self.max_step
        zero = torch.zeros_like(coordinates.positions)
        return QuasiNewtonState(
            inverse=Stacks(inverse), memory=memory, positions=coordinates.positions, forces=zero
        )

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: QuasiNewtonState
    ) -> tuple[Tensor, QuasiNewtonState]:
        """One step from the better of the present point and the anchor; see
        `geocalc.optim.base.Optimizer.step`.
        """
        moved = coordinates.positions - state.positions
        known = as_array(torch.stack([moved, state.forces, forces], 1))
        memory, energies = as_array(state.memory), as_array(energy)
        after, steps, stacks = library_of(memory).zeros_like(memory), [], []
        back = energies > math.inf
        for stack in state.inverse:
            places = stack.places_of_rows(coordinates)
            plan = self._plan(
                stack.matrix,
                Memory(*memory[stack.place].T),
                energies[stack.place],
                gathered(known, places),
            )
            after[stack.place] = library_of(memory).stack(plan.memory, 1)
            back[stack.place] = plan.back
            stacks.append(replace(stack, matrix=plan.inverse))
            steps.append((plan.step, places))
        displacement, positions, force = scattered(steps, forces), coordinates.positions, forces
        if bool(back.any()):
            returns = as_tensor(back)[coordinates.system_idx, None]
            positions = state.positions.where(returns, positions)
            force = state.forces.where(returns, forces)
            displacement = displacement + (positions - coordinates.positions)
        return displacement, QuasiNewtonState(
            inverse=Stacks(tuple(stacks)),
            memory=as_tensor(after),
            positions=positions,
            forces=force,
        )

    def _plan(self, inverse: Array, memory: Memory, energy: Array, known: Array) -> _Plan:
        """The next steps of k structures.

        Args:
            inverse: (k, n, n) inverse Hessians, Angstrom^2/eV.
            memory: of the structures.
            energy: (k,) eV, now.
            known: (k, 3, n) Angstrom and eV/Angstrom: the move from the anchor to the present
                point, the forces at the anchor and the forces now.
        """
        library = library_of(inverse)
        where = library.where
        dots = known @ known.swapaxes(1, 2)
        work = 0.5 * (dots[:, 0, 1] + dots[:, 0, 2])
        won = library.maximum(memory.energy - energy, work)
        back = (won < -NOISE) & (memory.length > SHORTEST_TRUST)
        limited = (memory.shift > 0) | (memory.share < 1)
        trust = where((won > GOOD * memory.gain) & limited, 2 * memory.trust, memory.trust)
        shorter = (BAD * memory.length).clip(SHORTEST_TRUST, None)
        trust = where(won < BAD * memory.gain - NOISE, shorter, trust.clip(None, self.max_step))
        lesson = _lesson(dots, memory, self.damping)
        asked = library.stack([lesson.change, library.stack([0 * work, back, ~back], 1)], 1)
        change, force = (asked @ known).swapaxes(0, 1)
        inverse, step = _learn(inverse, known[:, 0], change, force, lesson)
        slope = _dot(step, force)
        failed = ~(slope > 0)  # the model Hessian has failed, or there is no force
        if bool(failed.any()):
            unity = library.zeros_like(inverse)
            diagonal = list(range(unity.shape[1]))
            unity[:, diagonal, diagonal] = PLAIN
            inverse = where(failed[:, None, None], unity, inverse)
            step = where(failed[:, None], PLAIN * force, step)
            slope = where(failed, _dot(step, force), slope)
        longest = _longest(step)
        shift = 0 * longest
        held = longest > trust
        if bool(held.any()):
            step[held], shift[held] = _held_back(
                step[held], force[held], inverse[held], trust[held]
            )
            longest, slope = _longest(step), _dot(step, force)
        share = where(longest > trust, trust / longest.clip(TINY, None), 1.0)
        new = Memory(
            trust=trust,
            energy=where(back, memory.energy, energy),
            gain=0.5 * share * ((2 - share) * slope + share * shift * _dot(step, step)),
            shift=shift,
            share=share,
            length=share * longest,
        )
        return _Plan(new, inverse, share[:, None] * step, back)


class _Plan(NamedTuple):
    """The next steps of some structures.

    Attributes:
        memory: after the steps.
        inverse: (k, n, n) inverse Hessians, Angstrom^2/eV.
        step: (k, n) Angstrom from the anchors.
        back: (k,) bool, whether the last step is taken back, so that the anchor stays.
    """

    memory: Memory
    inverse: Array
    step: Array
    back: Array


class _Lesson(NamedTuple):
    """What is learned from a move.

    Attributes:
        learns: (k,) bool, whether anything is.
        change: (k, 3) shares of the move (eV/Angstrom^2), of the forces before and of those now in
            the change of forces that is learned.
        measured: (k,) eV, that change times the move; 1 where nothing is learned.
    """

    learns: Array
    change: Array
    measured: Array


def _dot(one: Array, other: Array) -> Array:
    """Scalar products (k,) of vectors (k, n)."""
    return (one[:, None] @ other[:, :, None])[:, 0, 0]


def _longest(step: Array) -> Array:
    """Longest displacement of an atom, (k,) Angstrom."""
    x, y, z = (step * step).reshape(len(step), -1, 3).swapaxes(0, 2)
    library = library_of(step)
    return library.sqrt(library.amax(x + y + z, 0))


def _lesson(dots: Array, memory: Memory, damping: float) -> _Lesson:
    """Damped BFGS: how much of the measured and of the expected change of forces is learned.

    Where the curvature is negative nothing is learned: the next steps would be long, into other
    basins.

    Args:
        dots: (k, 3, 3) scalar products of the move, the forces before it and those now.
        memory: of the structures.
        damping: see `QuasiNewton`.
    """
    library = library_of(dots)
    where = library.where
    moved, before, now = dots[:, 0].T
    measured, guessed = before - now, memory.share * before - memory.shift * moved
    learns = (moved >= SAME_PLACE**2) & (measured > 0) & (guessed == guessed)
    damped = learns & (measured < damping * guessed)
    mix = where(damped, (1 - damping) * guessed / where(damped, guessed - measured, 1.0), 1.0)
    rest = where(damped, 1 - mix, 0.0)
    of_move = where(damped, -rest * memory.shift, 0.0)
    of_before = where(damped, mix + rest * memory.share, 1.0)
    change = library.stack([of_move, of_before, -mix], 1)
    measured = where(learns, of_move * moved + of_before * before - mix * now, 1.0)
    return _Lesson(learns, change, measured)


def _learn(
    inverse: Array, move: Array, change: Array, force: Array, lesson: _Lesson
) -> tuple[Array, Array]:
    """Update inverse Hessians by BFGS, and multiply them with forces.

    Args:
        inverse: (k, n, n) Angstrom^2/eV.
        move: (k, n) Angstrom.
        change: (k, n) eV/Angstrom, by which the forces fell along the move, as it is learned.
        force: (k, n) eV/Angstrom.
        lesson: its numbers.
    Returns:
        The new inverse Hessians, and the steps (k, n) in Angstrom.
    """
    library = library_of(inverse)
    mapped, step = (library.stack([change, force], 1) @ inverse).swapaxes(0, 1)
    factor = lesson.learns / lesson.measured
    weight = 0.5 * (factor + factor * factor * _dot(change, mapped))
    other = weight[:, None] * move - factor[:, None] * mapped
    left, right = library.stack([move, other], 2), library.stack([other, move], 1)
    step = step + (left @ (right @ force[:, :, None]))[:, :, 0]
    return inverse + left @ right, step


def _held_back(step: Array, force: Array, inverse: Array, trust: Array) -> tuple[Array, Array]:
    """Limit steps to the trust radius by adding a multiple of unity to the Hessian.

    This shortens a step along soft directions and hardly along stiff ones, while scaling would
    shorten both. The step is sought among the combinations of the force, the step and the inverse
    Hessian times the step. They hold the steps of no and of an infinite multiple, and cost little.

    Args:
        step: (k, n) Angstrom, of the Hessians alone.
        force: (k, n) eV/Angstrom.
        inverse: (k, n, n) Angstrom^2/eV.
        trust: (k,) Angstrom.
    Returns:
        The steps (k, n) in Angstrom, and the multiples (k,) in eV/Angstrom^2.
    Source: More and Sorensen, SIAM J. Sci. Stat. Comput. 4, 553 (1983): Newton's method for the
    reciprocal length. Gould, Lucidi, Roma, Toint, SIAM J. Optim. 9, 504 (1999): the space.
    """
    library = library_of(step)
    powers = [force, step]
    for _ in range(KRYLOV - 1):
        powers.append((powers[-1][:, None] @ inverse)[:, 0])
    vectors = library.stack(powers, 1)
    dots = vectors @ vectors.swapaxes(1, 2)
    size = library.sqrt(library.einsum("kii->ki", dots)) + TINY
    dots = dots / (size[:, :, None] * size[:, None, :])
    # products of unit vectors with each other, and with the inverse Hessian times unit vectors
    overlap, grown = dots[:, :-1, :-1], dots[:, :-1, 1:] * (size[:, 1:] / size[:, :-1])[:, None]
    overlap = overlap + library.diag(ROUNDING + 0 * overlap[0, 0])
    units = vectors[:, :-1] / size[:, :-1, None]
    goal, shift = overlap[:, :, 1] * size[:, 1:2], 0 * trust
    for _ in range(TRIALS):
        solved = library.linalg.inv(overlap + shift[:, None, None] * grown)
        part = (solved @ goal[:, :, None])[:, :, 0]
        short = (part[:, None] @ units)[:, 0]
        excess = _longest(short) / trust - 1
        too_long = excess > SLACK
        if not bool(too_long.any()):
            break
        weighted = part[:, None] @ overlap
        softer = solved @ (grown @ part[:, :, None])
        more = excess * (weighted @ part[:, :, None] / (weighted @ softer))[:, 0, 0]
        shift = shift + library.where(too_long, more, 0.0)
    return short, shift
