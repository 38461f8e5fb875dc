"""Axes of symmetric tensors, differentiable also where eigenvalues tie, and rules that break ties
without a direction in space.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

TIE_TOLERANCE = 1e-3  # relative gap of neighboring eigenvalues below which their axes are tied
ANCHOR_TOLERANCE = 1e-3  # relative; vectors this close to the longest one anchor an axis as well
SAME_DIRECTION = 5e-5  # 1 - cosine, 0.6 degrees; anchors closer than that are one


class _Eigh(torch.autograd.Function):
    """Eigenvalues and axes of symmetric matrices, descending; tied axes do not turn into each other
    in the gradient.

    Turning tied axes into each other is a choice of basis; what is built on them (`split_axes`,
    `anchored_axes`) does not depend on it, so leaving that part out changes no gradient and divides
    by no gap.
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
    """Eigenvalues (..., d), descending, and eigenvectors (..., d, d), in columns, of symmetric
    matrices (..., d, d).

    Args:
        matrix: symmetric and positive semidefinite; differentiable, twice too.
        floor: (...,) gaps up to this count as ties whatever the eigenvalues; where noise begins.
    Source: Ionescu et al., Matrix backpropagation for deep networks (2015).
    """
    return _Eigh.apply(matrix, floor)


def tie_sizes(values: list[float], floor: float) -> list[int]:
    """Lengths of the runs of descending `values` that are tied."""
    sizes = [1]
    for larger, smaller in itertools.pairwise(values):
        if larger - smaller <= max(TIE_TOLERANCE * larger, floor):
            sizes[-1] += 1
        else:
            sizes.append(1)
    return sizes


def split_axes(basis: Tensor, tensors: Tensor, floors: Tensor) -> list[Tensor]:
    """Blocks of axes that the tensors can tell apart; what one leaves tied, the next may split.

    Args:
        basis: (d, k) orthonormal columns.
        tensors: (m, d, d) symmetric, in the order in which they are asked.
        floors: (m,) their noise.
    Returns:
        Blocks (d, k_i), k_i summing to k; more than one column in a block is a tie that remains.
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
    """Bases of a tied block that point at the longest vectors in it: one basis for each of those,
    so the set is intrinsic.

    Args:
        block: (d, k) orthonormal columns, k = 2 or 3.
        vectors: (n, d) what the tensors were made of, with components in the block.
        weights: (n,) of the squared length of each vector.
    Yields:
        Basis (d, k), and for each axis whether its sign is still free (k values).
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
    """Unit vectors (k,) along the longest weighted vectors, longest first; vectors of one direction
    give their mean.
    """
    mass = (weights * (coordinates * coordinates).sum(1)).detach()
    longest = torch.nonzero(mass >= (1 - ANCHOR_TOLERANCE) * mass.max())[:, 0]
    longest = longest[torch.argsort(mass[longest], descending=True, stable=True)]
    candidates = coordinates[longest]
    candidates = candidates / candidates.norm(dim=1, keepdim=True)
    units = candidates.detach().cpu().numpy()
    left = np.arange(len(units))
    directions = []
    while len(left):
        same = units[left] @ units[left[0]] >= 1 - SAME_DIRECTION
        total = candidates[torch.from_numpy(left[same]).to(candidates.device)].sum(0)
        directions.append(total / total.norm())
        left = left[~same]
    return directions
