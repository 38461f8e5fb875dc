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
KRYLOV = 5  # vectors that a step which is held back is made of
ROUNDING, TINY = 1e-10, 1e-300  # of a vector that is the difference of two; no length is smaller
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
        memory, energies = as_array(state.memory), as_array(energy)
        after, steps, stacks = library_of(memory).zeros_like(memory), [], []
        back = energies > math.inf
        for stack in state.inverse:
            places = stack.places_of_rows(coordinates)
            plan = self._plan(
                stack.matrix,
                Memory(*memory[stack.place].T),
                energies[stack.place],
                *(gathered(values, places) for values in (moved, state.forces, forces)),
            )
            after[stack.place] = library_of(memory).stack(plan.memory, 1)
            back[stack.place] = plan.back
            stacks.append(replace(stack, matrix=plan.inverse))
            steps.append((plan.step, places))
        displacement, positions, force = (
            scattered(steps, forces),
            coordinates.positions,
            forces,
        )
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

    def _plan(
        self, inverse: Array, memory: Memory, energy: Array, move: Array, before: Array, now: Array
    ) -> _Plan:
        """The next steps of k structures.

        Args:
            inverse: (k, n, n) inverse Hessians, Angstrom^2/eV.
            memory: of the structures.
            energy: (k,) eV, now.
            move: (k, n) Angstrom from the anchor to the present point.
            before, now: (k, n) eV/Angstrom, forces at the anchor and now.
        """
        library = library_of(inverse)
        where = library.where
        expected = memory.share[:, None] * before - memory.shift[:, None] * move
        inverse = _learn(inverse, move, before - now, expected, self.damping)
        won = library.maximum(memory.energy - energy, 0.5 * _dot(before + now, move))
        back = (won < -NOISE) & (memory.length > SHORTEST_TRUST)
        limited = (memory.shift > 0) | (memory.share < 1)
        trust = where((won > GOOD * memory.gain) & limited, 2 * memory.trust, memory.trust).clip(
            None, self.max_step
        )
        shorter = (BAD * memory.length).clip(SHORTEST_TRUST, None)
        trust = where(won < BAD * memory.gain - NOISE, shorter, trust)
        force = where(back[:, None], before, now)
        step = _product(inverse, force)
        failed = ~(_dot(step, force) > 0)  # the model Hessian has failed, or there is no force
        if bool(failed.any()):
            unity = library.zeros_like(inverse)
            diagonal = list(range(unity.shape[1]))
            unity[:, diagonal, diagonal] = PLAIN
            inverse = where(failed[:, None, None], unity, inverse)
            step = where(failed[:, None], PLAIN * force, step)
        longest = _longest(step)
        shift = 0 * longest
        held = longest > trust
        if bool(held.any()):
            step[held], shift[held] = _held_back(step[held], inverse[held], trust[held])
            longest = _longest(step)
        share = where(longest > trust, trust / longest.clip(TINY, None), 1 + shift * 0)
        step = share[:, None] * step
        gain = 0.5 * ((2 - share) * _dot(step, force) + shift * _dot(step, step))
        new = Memory(
            trust=trust,
            energy=where(back, memory.energy, energy),
            gain=gain,
            shift=shift,
            share=share,
            length=share * longest,
        )
        return _Plan(new, inverse, step, back)


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


def _dot(one: Array, other: Array) -> Array:
    """Scalar products (k,) of vectors (k, n)."""
    return (one * other).sum(1)


def _product(matrix: Array, vector: Array) -> Array:
    """Products (k, n) of matrices (k, n, n) and vectors (k, n)."""
    return (matrix @ vector[:, :, None])[:, :, 0]


def _longest(step: Array) -> Array:
    """Longest displacement of an atom, (k,) Angstrom."""
    x, y, z = (step[:, k::3] for k in range(3))
    library = library_of(step)
    return library.sqrt(library.amax(x * x + y * y + z * z, 1))


def _held_back(step: Array, inverse: Array, trust: Array) -> tuple[Array, Array]:
    """Limit steps to the trust radius by adding a multiple of unity to the Hessian.

    This shortens a step along soft directions and hardly along stiff ones, while scaling would
    shorten both. The step is sought in the space of `KRYLOV` powers of the inverse Hessian times
    the step, in which every multiple costs next to nothing.

    Args:
        step: (k, n) Angstrom, of the Hessians alone.
        inverse: (k, n, n) Angstrom^2/eV.
        trust: (k,) Angstrom.
    Returns:
        The steps (k, n) in Angstrom, and the multiples (k,) in eV/Angstrom^2.
    Source: More and Sorensen, SIAM J. Sci. Stat. Comput. 4, 553 (1983): Newton's method for the
    reciprocal length. Gould, Lucidi, Roma, Toint, SIAM J. Optim. 9, 504 (1999): the space.
    """
    library = library_of(step)
    basis, values = _krylov(step, inverse)
    start = _product(basis, step)
    squares, shift = start * start, 0 * trust
    for _ in range(TRIALS):
        share = 1 / (1 + shift[:, None] * values)
        short = ((start * share)[:, None] @ basis)[:, 0]
        excess = _longest(short) / trust - 1
        too_long = excess > SLACK
        if not bool(too_long.any()):
            break
        squared = squares * share * share
        more = excess * squared.sum(1) / (squared * share * values).sum(1)
        shift = shift + library.where(too_long, more, 0.0)
    return short, shift


def _krylov(start: Array, matrix: Array) -> tuple[Array, Array]:
    """Approximate eigenvectors (k, KRYLOV, n) of symmetric matrices (k, n, n) that span the powers
    of the matrices times vectors (k, n), with their eigenvalues (k, KRYLOV). The method of Lanczos.
    """
    library = library_of(start)
    basis = library.zeros_like(matrix[:, :KRYLOV])
    images, vector, size = library.zeros_like(basis), start, 0.0
    for m in range(KRYLOV):
        norm = library.sqrt(_dot(vector, vector))
        # where the space is exhausted, zero vectors follow
        basis[:, m] = vector * ((norm > ROUNDING * size) / (norm + TINY))[:, None]
        images[:, m] = image = _product(matrix, basis[:, m])
        known, size = basis[:, : m + 1], library.sqrt(_dot(image, image))
        vector = image - (_product(known, image)[:, None] @ known)[:, 0]
    values, turn = library.linalg.eigh(basis @ images.swapaxes(1, 2))
    return turn.swapaxes(1, 2) @ basis, values


def _learn(inverse: Array, move: Array, change: Array, expected: Array, damping: float) -> Array:
    """Update inverse Hessians by damped BFGS.

    Where the curvature is negative nothing is learned: the next steps would be long, into other
    basins.

    Args:
        inverse: (k, n, n) Angstrom^2/eV.
        move: (k, n) Angstrom.
        change: (k, n) eV/Angstrom, by which the forces fell along the move.
        expected: (k, n) eV/Angstrom, the same by the present Hessian; NaN where nothing is known.
        damping: see `QuasiNewton`.
    """
    library = library_of(inverse)
    where = library.where
    measured, guessed = _dot(move, change), _dot(move, expected)
    learns = (_dot(move, move) >= SAME_PLACE**2) & (measured > 0) & (guessed == guessed)
    damped = learns & (measured < damping * guessed)
    mix = (1 - damping) * guessed / where(damped, guessed - measured, 1.0)
    mix = where(damped, mix, 1.0)[:, None]
    change = where(damped[:, None], mix * change + (1 - mix) * expected, change)
    measured = where(learns, _dot(move, change), 1.0)
    mapped = _product(inverse, change)
    weight = 0.5 * (1 + _dot(change, mapped) / measured)
    move = where(learns[:, None], move, 0.0)
    other = (weight[:, None] * move - mapped) / measured[:, None]
    return inverse + library.stack([move, other], 2) @ library.stack([other, move], 1)
