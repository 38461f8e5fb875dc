"""Which waves a structure has: integer indices n of k = 2 pi (n * steps) A^-T, one of every pair k,
-k.

They are all that is kept from one step of a relaxation to the next: measured, the phases of atoms
that have not moved cost less than finding out which these are.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from geocalc.errors import InputError

CANDIDATES = 2e5  # waves that are looked at in one structure; slabs have hundreds
KEPT = 256  # cells whose waves are remembered, some kB each


def indices_in_box(grid: tuple[int, int, int]) -> np.ndarray:
    """Half of the indices (n, 3) up to `grid` along each lattice vector, without zero; ordered."""
    return _half(np.array(list(product(*(range(-n, n + 1) for n in grid))), dtype=float))


@lru_cache(maxsize=KEPT)
def indices_within(
    lattice: bytes, steps: tuple[float, float, float], k_cutoff: float
) -> np.ndarray:
    """Half of the indices (n, 3) with |k| < k_cutoff, without zero; remembered while a relaxation
    keeps its cell.

    Args:
        lattice: (3, 3) cell in Angstrom, the bytes of an array of float64.
        steps: of k along each reciprocal vector; 1 on a lattice.
        k_cutoff: 1/Angstrom.
    Raises:
        InputError: there are too many.
    """
    cell, step = np.frombuffer(lattice).reshape(3, 3), np.array(steps)
    # k.a / (2 pi) is the index along the vector a, times its step
    largest = np.floor(k_cutoff * np.linalg.norm(cell, axis=1) / (2 * np.pi * step) + 1e-9).astype(
        int
    )
    n_candidates = np.prod(2.0 * largest + 1)
    if n_candidates > CANDIDATES:
        raise InputError(
            f"the cell {cell.tolist()} is so large or flat that {n_candidates:.0e} waves up to"
            f" k_cutoff={k_cutoff:g} 1/Å were to be looked at; use a smaller cell, or a model with"
            " a smaller k_cutoff or a larger delta_k"
        )
    indices = _half(
        np.stack(
            np.meshgrid(*(np.arange(-n, n + 1.0) for n in largest), indexing="ij"), axis=-1
        ).reshape(-1, 3)
    )
    vectors = 2 * np.pi * (indices * step) @ np.linalg.inv(cell).T
    indices = indices[(vectors * vectors).sum(1) < k_cutoff**2]
    indices.setflags(write=False)
    return indices


def _half(indices: np.ndarray) -> np.ndarray:
    """Those of the index triples (n, 3) whose first nonzero number is positive."""
    first, second, third = indices.T
    return indices[(first > 0) | ((first == 0) & ((second > 0) | ((second == 0) & (third > 0))))]
