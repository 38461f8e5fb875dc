"""Integer indices n of the wave vectors k = 2 pi (n * steps) A^-T, one of every pair k, -k.

The indices of a cell are cached between the steps of a relaxation. Phases are not: measured,
computing the phases of atoms that have not moved is cheaper than finding these atoms.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from geocalc.errors import InputError

MAX_CANDIDATES = 2e5  # wave vectors to check in one structure; slabs have hundreds
CACHE_SIZE = 256  # cells with cached indices, some kB each


def indices_in_box(grid: tuple[int, int, int]) -> np.ndarray:
    """Return half of the indices (n, 3) up to `grid` along each lattice vector.

    Ordered, without zero.
    """
    return _half(np.array(list(product(*(range(-n, n + 1) for n in grid))), dtype=float))


@lru_cache(maxsize=CACHE_SIZE)
def indices_within(
    lattice: bytes, steps: tuple[float, float, float], k_cutoff: float
) -> np.ndarray:
    """Return half of the indices (n, 3) with |k| < k_cutoff, without zero; cached by cell.

    Args:
        lattice: bytes of the (3, 3) float64 array of lattice vectors in Angstrom.
        steps: step of k along each reciprocal vector; 1 on a lattice.
        k_cutoff: 1/Angstrom.
    Raises:
        InputError: the number of candidates exceeds `MAX_CANDIDATES`.
    """
    cell, step = np.frombuffer(lattice).reshape(3, 3), np.array(steps)
    # k.a / (2 pi) is the index along the lattice vector a times its step
    largest = np.floor(k_cutoff * np.linalg.norm(cell, axis=1) / (2 * np.pi * step) + 1e-9).astype(
        int
    )
    n_candidates = np.prod(2.0 * largest + 1)
    if n_candidates > MAX_CANDIDATES:
        raise InputError(
            f"the cell {cell.tolist()} is so large or flat that it needs {n_candidates:.0e} waves"
            f" up to k_cutoff={k_cutoff:g} 1/Å, more than {MAX_CANDIDATES:.0e}; use a smaller cell,"
            " or a model with a smaller k_cutoff or a larger delta_k"
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
    """Return the index triples (n, 3) whose first nonzero number is positive."""
    first, second, third = indices.T
    return indices[(first > 0) | ((first == 0) & ((second > 0) | ((second == 0) & (third > 0))))]
