"""Operations on batches of small matrices, evaluated term by term.

The rounding of one result depends neither on the other matrices of the batch nor on the alignment
of the data in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

# three halvings scale an exponent of norm 3 below 0.4, where 14 terms leave an error below 1e-17
HALVINGS, TERMS = 3, 14


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return the matrix products of `left` (..., n, 3) and `right` (..., 3, 3)."""
    first, second, third = (left[..., :, k, None] * right[..., None, k, :] for k in range(3))
    return first + second + third


def matmul_rows(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiply each row vector of `rows` (n, 3) by its own matrix of `matrices` (n, 3, 3)."""
    return matmul(rows[:, None, :], matrices)[:, 0]


def determinant(matrices: Tensor) -> Tensor:
    """Return the determinants of matrices (..., 3, 3)."""
    a, b, c = matrices.unbind(-2)
    x, y, z = (a * torch.linalg.cross(b, c)).unbind(-1)
    return x + y + z


def inverse(matrices: Tensor) -> Tensor:
    """Return the inverses of matrices (..., 3, 3); not finite for singular matrices."""
    a, b, c = matrices.unbind(-2)
    columns = (torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b))
    return torch.stack(columns, dim=-1) / determinant(matrices)[..., None, None]


def exponential(matrices: Tensor) -> Tensor:
    """Return the exponentials of matrices (..., 3, 3) with norms up to 3."""
    return exponential_and_derivative(matrices, torch.zeros_like(matrices))[0]


def exponential_and_derivative(matrices: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return matrix exponentials and their directional derivatives, both (..., 3, 3).

    Args:
        matrices: (..., 3, 3) exponents with norms up to 3.
        directions: (..., 3, 3) directions of the derivatives.
    Source: scaling and squaring with the product rule in every step; Al-Mohy and Higham, SIAM J.
    Matrix Anal. Appl. 30, 1639 (2009), sec. 3.
    """
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device).expand(matrices.shape)
    exponent, direction = matrices / 2**HALVINGS, directions / 2**HALVINGS
    value, derivative = identity, torch.zeros_like(matrices)
    for k in range(TERMS, 0, -1):
        derivative = (matmul(direction, value) + matmul(exponent, derivative)) / k
        value = identity + matmul(exponent, value) / k
    for _ in range(HALVINGS):
        derivative = matmul(derivative, value) + matmul(value, derivative)
        value = matmul(value, value)
    return value, derivative
