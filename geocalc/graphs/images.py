"""Nearest periodic images of vectors."""

from __future__ import annotations

import itertools

import numpy as np

from geocalc.graphs.truncation import TIE_TOLERANCE


def nearest_images(
    vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lattice shifts S that minimize |v + S @ cell|, including all ties.

    Args:
        vectors: (n, 3) Angstrom.
        cell: (3, 3) Angstrom with a nonzero volume, rows are lattice vectors.
        pbc: (3,) bool.
    Returns:
        rows (m,) int64, ascending: index of the vector of each shift; shifts (m, 3), integers,
        ascending for each vector, zero along open directions; lengths (m,) Angstrom.
    """
    inverse = np.linalg.inv(cell)
    base = -np.round(vectors @ inverse) * pbc
    wrapped = vectors + base @ cell
    farthest = np.sqrt((wrapped**2).sum(axis=1)).max(initial=0.0)
    # points within `farthest` have fractional coordinates up to farthest / height, and those of
    # `wrapped` are up to one half
    n_cells = np.where(pbc, np.floor(farthest * np.sqrt((inverse**2).sum(axis=0)) + 0.5), 0).astype(
        int
    )
    nearby = np.array(list(itertools.product(*(range(-n, n + 1) for n in n_cells))), dtype=float)
    lengths = np.sqrt(((wrapped[:, None] + nearby @ cell) ** 2).sum(axis=2))
    rows, chosen = np.nonzero(lengths <= lengths.min(axis=1, keepdims=True) + TIE_TOLERANCE)
    return rows, base[rows] + nearby[chosen], lengths[rows, chosen]
