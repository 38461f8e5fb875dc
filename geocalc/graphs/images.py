"""Which periodic image of an atom is nearest."""

from __future__ import annotations

import itertools

import numpy as np

from geocalc.graphs.truncation import TIE_TOLERANCE


def nearest_images(
    vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shifts S that make v + S @ cell shortest; every one of those that tie.

    Args:
        vectors: (n, 3) Angstrom.
        cell: (3, 3) Angstrom with a volume, rows are lattice vectors.
        pbc: (3,) bool.
    Returns:
        rows (m,) int64, ascending, of the vector that each shift is for; shifts (m, 3), integers,
        ascending for each vector, zero along open directions; lengths (m,) Angstrom.
    """
    inverse = np.linalg.inv(cell)
    base = -np.round(vectors @ inverse) * pbc
    wrapped = vectors + base @ cell
    farthest = np.sqrt((wrapped**2).sum(axis=1)).max(initial=0.0)
    # what lies within `farthest` has fractional coordinates up to farthest / height, and `wrapped`
    # has half a cell of its own
    steps = np.where(pbc, np.floor(farthest * np.sqrt((inverse**2).sum(axis=0)) + 0.5), 0).astype(
        int
    )
    around = np.array(list(itertools.product(*(range(-n, n + 1) for n in steps))), dtype=float)
    lengths = np.sqrt(((wrapped[:, None] + around @ cell) ** 2).sum(axis=2))
    rows, chosen = np.nonzero(lengths <= lengths.min(axis=1, keepdims=True) + TIE_TOLERANCE)
    return rows, base[rows] + around[chosen], lengths[rows, chosen]
