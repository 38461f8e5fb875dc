"""Principal axes of symmetric tensors, and intrinsic rules for choosing axes within a tie.

The axes are differentiable even where eigenvalues tie, and no rule refers to a direction in space.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

TIE_TOLERANCE = 1e-3  # relative gap of consecutive eigenvalues below which their axes are tied
ANCHOR_TOLERANCE = 1e-3  # relative; vectors this close in length to the longest are equivalent
SAME_DIRECTION = 5e-5  # 1 - cosine (0.6 degrees) below which two directions are the same


class _Eigh(torch.autograd.Function):
    """Eigenvalues and eigenvectors of symmetric matrices in descending order.

    The gradient omits the rotation of tied axes into each other. Such a rotation is a choice of
    basis, and the functions built on the axes (`split_axes`, `anchored_axes`) do not depend on it;
    so the gradient is unchanged and no division by a vanishing gap occurs.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        values, axes = torch.linalg.eigh(matrix)
        values, axes = values.flip(-1), axes.flip(-1)
        ctx.save_for_backward(values, axes, floor)
        return values, axes

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor, grad_axes: Tensor) -> tuple[Tensor, None]:
        values, axes, floor = ctx.saved_tensors
        gap = values[..., None, :] - values[..., :, None]
        larger = torch.maximum(values[..., None, :], values[..., :, None])
        tied = gap.abs() <= torch.maximum(TIE_TOLERANCE * larger, floor[..., None, None])
        turn = (axes.transpose(-1, -2) @ grad_axes) / torch.where(tied, torch.ones_like(gap), gap)
        inner = torch.where(tied, torch.zeros_like(turn), turn) + torch.diag_embed(grad_values)
        grad = axes @ inner @ axes.transpose(-1, -2)
        return 0.5 * (grad + grad.transpose(-1, -2)), None


def principal_axes(matrix: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (..., d), descending, and eigenvectors (..., d, d) in columns.

    Args:
        matrix: (..., d, d) symmetric and positive semidefinite; twice differentiable.
        floor: (...,) noise level; smaller gaps are ties for any eigenvalues.
    Source: Ionescu et al., Matrix backpropagation for deep networks (2015).
    """
    return _Eigh.apply(matrix, floor)


def tie_sizes(values: list[float], floor: float) -> list[int]:
    """Return the lengths of the runs of tied values in a descending list.

    Args:
        values: eigenvalues, descending.
        floor: noise level; smaller gaps are ties.
    """
    sizes = [1]
    for larger, smaller in itertools.pairwise(values):
        if larger - smaller <= max(TIE_TOLERANCE * larger, floor):
            sizes[-1] += 1
        else:
            sizes.append(1)
    return sizes


def split_axes(basis: Tensor, tensors: Tensor, floors: Tensor) -> list[Tensor]:
    """Split a basis into blocks of axes by the eigenvalues of tensors.

    Axes that are tied in one tensor may be split by the next.

    Args:
        basis: (d, k) orthonormal columns.
        tensors: (m, d, d) symmetric, in order of precedence.
        floors: (m,) noise level of each tensor.
    Returns:
        Blocks (d, k_i) with sum of k_i = k; a block with more than one column is an unresolved tie.
    """
    if basis.shape[1] == 1 or len(tensors) == 0:
        return [basis]
    values, vectors = principal_axes(basis.T @ tensors[0] @ basis, floors[0])
    sizes = tie_sizes(values.tolist(), float(floors[0]))
    parts = (basis @ vectors).split(sizes, dim=1)
    return [block for part in parts for block in split_axes(part, tensors[1:], floors[1:])]


def anchored_axes(
    block: Tensor, vectors: Tensor, weights: Tensor
) -> Iterator[tuple[Tensor, tuple[bool, ...]]]:
    """Generate bases of a tied block whose first axis points along one of its longest vectors.

    There is one basis for each of these vectors, so the set of bases is intrinsic.

    Args:
        block: (d, k) orthonormal columns, k = 2 or 3.
        vectors: (n, d) vectors that the tensors were computed from, with components in the block.
        weights: (n,) weight of the squared length of each vector.
    Yields:
        Basis (d, k), and for each of its k axes whether the sign is undetermined.
    """
    coordinates = vectors @ block
    for first in _directions(coordinates, weights):
        if block.shape[1] == 2:
            second = torch.stack([-first[1], first[0]])
            yield block @ torch.stack([first, second], dim=1), (False, True)
            continue
        across = coordinates - (coordinates @ first)[:, None] * first
        for second in _directions(across, weights):
            third = torch.linalg.cross(first, second)
            yield block @ torch.stack([first, second, third], dim=1), (False, False, True)


def _directions(coordinates: Tensor, weights: Tensor) -> list[Tensor]:
    """Return unit vectors (k,) along the longest weighted vectors, longest first.

    Vectors along the same direction are replaced by their mean.
    """
    size = (weights * (coordinates * coordinates).sum(1)).detach()
    longest = torch.nonzero(size >= (1 - ANCHOR_TOLERANCE) * size.max())[:, 0]
    longest = longest[torch.argsort(size[longest], descending=True, stable=True)]
    candidates = coordinates[longest]
    candidates = candidates / candidates.norm(dim=1, keepdim=True)
    units = candidates.detach().cpu().numpy()
    remaining = np.arange(len(units))
    directions = []
    while len(remaining):
        same = units[remaining] @ units[remaining[0]] >= 1 - SAME_DIRECTION
        total = candidates[torch.from_numpy(remaining[same]).to(candidates.device)].sum(0)
        directions.append(total / total.norm())
        remaining = remaining[~same]
    return directions
