"""L-BFGS: quasi-Newton steps from the last moves and the changes of the gradient along them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dtrtrs
from torch import Tensor

from geocalc.core.systems import Coordinates, per_row, per_system
from geocalc.optim.base import Floats, FreeComponents, Ragged

FIRST_CAPACITY = 12  # pairs; a full store is replaced by one of more than twice the capacity


@dataclass
class Store:
    """Memory for the steps of one structure, shared by histories that extend one another.

    Attributes:
        pairs: (capacity, 2, n_free), each step in Angstrom and the change of the gradient along it
            in eV/Angstrom.
        products: (capacity, capacity) eV, lower triangle of changes @ steps.T.
        n_written: pairs written so far.
    """

    pairs: Floats
    products: Floats
    n_written: int = 0

    @classmethod
    def of(cls, pairs: Floats, products: Floats, capacity: int) -> Store:
        """A store for `capacity` pairs that starts with these."""
        n = len(pairs)
        store = cls(np.empty((capacity, *pairs.shape[1:])), np.zeros((capacity, capacity)), n)
        store.pairs[:n], store.products[:n, :n] = pairs, products
        return store


@dataclass(frozen=True)
class History:
    """The last steps of one structure over its free components, oldest first.

    A history never changes. An extended history appends to the same store, or copies it where
    another history has already done so.

    Attributes:
        store: holds the steps.
        length: number of steps, the first ones in the store.
    """

    store: Store
    length: int = 0

    @classmethod
    def empty(cls, n_free: int) -> History:
        """A history without steps, for `n_free` free components."""
        return cls(Store.of(np.zeros((0, 2, n_free)), np.zeros((0, 0)), FIRST_CAPACITY))

    @property
    def pairs(self) -> Floats:
        """(length, 2, n_free), each step in Angstrom and the change of the gradient along it in
        eV/Angstrom.
        """
        return self.store.pairs[: self.length]

    @property
    def products(self) -> Floats:
        """(capacity, length) eV; its upper triangle is that of steps @ changes.T, in Fortran
        order.
        """
        return self.store.products[: self.length].T

    def extended(self, pair: Floats, memory: int) -> History:
        """The history with one more step.

        Args:
            pair: (2, n_free), the step in Angstrom and the change of the gradient in eV/Angstrom.
            memory: largest number of steps; the oldest is dropped beyond it.
        """
        store, n = self.store, self.length
        if n == memory:
            store, n = Store.of(store.pairs[1:n], store.products[1:n, 1:n], memory), n - 1
        elif n != store.n_written or n == len(store.pairs):
            store = Store.of(
                store.pairs[:n], store.products[:n, :n], min(2 * n + FIRST_CAPACITY, memory)
            )
        store.pairs[n] = pair
        products = store.pairs[: n + 1, 0] @ pair[1]
        if products[n] == 0.0:  # zero curvature cannot be inverted
            return self
        store.products[n, : n + 1] = products
        store.n_written = n + 1
        return History(store, n + 1)

    def newton_step(self, forces: Floats, curvature: float) -> Floats:
        """The step to the minimum of the quadratic model that these steps define, (n_free,).

        The two loops of the method are the substitutions that solve for `weights` and `returned`.

        Args:
            forces: (n_free,) eV/Angstrom.
            curvature: eV/Angstrom^2, the Hessian before all steps is this times unity.
        Source: Nocedal, Math. Comp. 35, 773 (1980); its two loops as triangular systems, Byrd,
        Nocedal and Schnabel, Math. Program. 63, 129 (1994), sec. 2.
        """
        pairs, products = self.pairs, self.products
        if len(pairs) == 0:
            return forces / curvature
        steps, changes = pairs[:, 0], pairs[:, 1]
        weights, _ = dtrtrs(products, steps @ forces)
        direction = (forces - weights @ changes) / curvature
        returned, _ = dtrtrs(products, products.diagonal() * weights - changes @ direction, trans=1)
        return direction + returned @ steps


@dataclass(frozen=True, kw_only=True)
class LbfgsState:
    """State of L-BFGS.

    Attributes:
        history: one `History` per structure.
        positions: (n_rows, 3) Angstrom at the start of the last step.
        forces: (n_rows, 3) eV/Angstrom at the start of the last step.
    """

    history: Ragged[History] = per_system()
    positions: Tensor = per_row()
    forces: Tensor = per_row()


@dataclass(frozen=True, kw_only=True)
class Lbfgs:
    """Settings of L-BFGS; the defaults and the update are those of ASE's LBFGS without line search.

    Attributes:
        max_step: Angstrom, longest displacement of any one atom; a longer step is scaled down as a
            whole.
        memory: steps that are remembered, at least one.
        damping: factor of every step.
        curvature: eV/Angstrom^2, the Hessian before the first step is this times unity.

    Source: see `History.newton_step`.
    """

    max_step: float = 0.2
    memory: int = 100
    damping: float = 1.0
    curvature: float = 70.0

    def init(self, coordinates: Coordinates) -> LbfgsState:
        """State before the first step."""
        return LbfgsState(
            history=Ragged(
                tuple(History.empty(n_free) for n_free in FreeComponents.of(coordinates).sizes)
            ),
            positions=coordinates.positions,
            forces=coordinates.positions.new_zeros(coordinates.positions.shape),
        )

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: LbfgsState
    ) -> tuple[Tensor, LbfgsState]:
        """One quasi-Newton step; see `geocalc.optim.base.Optimizer.step`."""
        free = FreeComponents.of(coordinates)
        parts = free.split(coordinates.positions - state.positions, state.forces - forces, forces)
        learned = tuple(
            known.extended(part[:2], self.memory)
            for known, part in zip(state.history, parts, strict=True)
        )
        steps = [
            known.newton_step(part[2], self.curvature)
            for known, part in zip(learned, parts, strict=True)
        ]
        new = LbfgsState(history=Ragged(learned), positions=coordinates.positions, forces=forces)
        return self.damping * free.join(steps, self.max_step, forces), new
