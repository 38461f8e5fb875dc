"""Small matrices of a batch, term by term: the rounding of one never depends on the others, nor on
where it lies in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

# an exponent up to 3 is halved below 0.4, where the series left out is below 1e-17
HALVINGS, TERMS = 3, 14


def times(left: Tensor, right: Tensor) -> Tensor:
    """Products of matrices (..., n, 3) and (..., 3, 3)."""
    first, second, third = (left[..., :, k, None] * right[..., None, k, :] for k in range(3))
    return first + second + third


def rows_times(rows: Tensor, matrices: Tensor) -> Tensor:
    """Each of the row vectors (n, 3) times its matrix (n, 3, 3)."""
    return times(rows[:, None, :], matrices)[:, 0]


def determinant(matrices: Tensor) -> Tensor:
    """Determinants of matrices (..., 3, 3)."""
    a, b, c = matrices.unbind(-2)
    x, y, z = (a * torch.linalg.cross(b, c)).unbind(-1)
    return x + y + z


def inverse(matrices: Tensor) -> Tensor:
    """Inverses of matrices (..., 3, 3); not finite where there is none."""
    a, b, c = matrices.unbind(-2)
    columns = (torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b))
    return torch.stack(columns, dim=-1) / determinant(matrices)[..., None, None]


def exponential(matrices: Tensor) -> Tensor:
    """Exponentials of matrices (..., 3, 3) of norm up to 3."""
    return exponential_along(matrices, torch.zeros_like(matrices))[0]


def exponential_along(matrices: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Exponentials and their derivatives along directions, all (..., 3, 3).

    Source: scaling and squaring, with the product rule in every step (Al-Mohy and Higham, SIAM J.
    Matrix Anal. Appl. 30, 1639 (2009), sec. 3).
    """
    unity = torch.eye(3, dtype=matrices.dtype, device=matrices.device).expand(matrices.shape)
    exponent, along = matrices / 2**HALVINGS, directions / 2**HALVINGS
    value, slope = unity, torch.zeros_like(matrices)
    for k in range(TERMS, 0, -1):
        slope = (times(along, value) + times(exponent, slope)) / k
        value = unity + times(exponent, value) / k
    for _ in range(HALVINGS):
        slope = times(slope, value) + times(value, slope)
        value = times(value, value)
    return value, slope
