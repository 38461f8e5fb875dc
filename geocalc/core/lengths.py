"""Lengths of vectors with a finite derivative at zero."""

from __future__ import annotations

from torch import Tensor

SHORTEST = 1e-6  # Angstrom; shorter vectors count as this long, so that derivatives stay finite


def safe_lengths(vectors: Tensor) -> Tensor:
    """Compute the lengths (n,) of vectors (n, 3) in Angstrom, at least `SHORTEST`.

    The derivative of a vector of length zero is zero instead of NaN.
    """
    return (vectors * vectors).sum(1).clamp(min=SHORTEST**2).sqrt()
