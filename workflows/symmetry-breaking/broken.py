"""Analyze relaxed weights after training: lengths, directions, and components that symmetry
forbids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from geocalc.nn import thetas
from geocalc.symmetry import identify_point_group, invariant_projector, wigner_matrix

SAME = 1e-2  # a symmetry changes the relaxed weights by less than this part of what is not 0e
NOTHING = 1e-4  # relaxed weights that are shorter, as a part of 0e, break nothing
PLACE = 1e-4  # how far a symmetry may leave a point from the place of another


@dataclass(frozen=True, kw_only=True)
class ThetaPart:
    """One irrep in the relaxed weights of one layer.

    Attributes:
        layer: from 1.
        degree, parity: of the irrep.
        values: (2l + 1) components of e3nn.
        dimension: of the space that the symmetry of the task allows.
        forbidden: length outside of it, by that of the layer's weights.
        share: of the squared length inside of it; None where the length is zero.
    """

    layer: int
    degree: int
    parity: int
    values: tuple[float, ...]
    dimension: int
    forbidden: float
    share: float | None

    @property
    def irrep(self) -> str:
        """As it is written, `2e`."""
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"

    @property
    def length(self) -> float:
        """Euclidean."""
        return float(np.linalg.norm(self.values))

    @property
    def is_scalar(self) -> bool:
        """Whether it is 0e."""
        return (self.degree, self.parity) == (0, 1)


def read_theta(network: nn.Module, group: np.ndarray) -> tuple[ThetaPart, ...]:
    """Every irrep of every layer; `group` (n, 3, 3) is what the task leaves of the symmetry of the
    input.
    """
    found = []
    for layer, (_, theta) in enumerate(thetas(network), 1):
        total = float(theta.values.detach().norm())
        for block, rows in zip(theta.blocks, theta.parts(), strict=True):
            space = invariant_projector(group, block.degree, block.parity)
            for row in rows.detach().numpy():
                inside, length = space @ row, float(np.linalg.norm(row))
                part = ThetaPart(
                    layer=layer,
                    degree=block.degree,
                    parity=block.parity,
                    values=tuple(row.tolist()),
                    dimension=round(float(np.trace(space))),
                    forbidden=float(np.linalg.norm(row - inside)) / total,
                    share=float(inside @ inside) / length**2 if length > 0 else None,
                )
                found.append(part)
    return tuple(found)


def changes(parts: Sequence[ThetaPart], matrices: np.ndarray) -> np.ndarray:
    """How much matrices (n, 3, 3) change the layer that they change most, (n,), as a part of what
    is not 0e there.
    """
    worst = np.zeros(len(matrices))
    for layer in {part.layer for part in parts}:
        own = [part for part in parts if part.layer == layer]
        scalar = sum(part.length for part in own if part.is_scalar)
        rest = [part for part in own if not part.is_scalar]
        length = sum(part.length**2 for part in rest) ** 0.5
        if length <= NOTHING * scalar:
            continue
        squared = np.zeros(len(matrices))
        for part in rest:
            turned = wigner_matrix(part.degree, part.parity, matrices) @ np.array(part.values)
            squared += ((turned - part.values) ** 2).sum(axis=1)
        worst = np.maximum(worst, np.sqrt(squared) / length)
    return worst


def recovered(parts: Sequence[ThetaPart], before: np.ndarray) -> str:
    """Name of the group of those symmetries of the input, (n, 3, 3), that the relaxed weights of
    all layers keep.
    """
    return str(identify_point_group(before[changes(parts, before) < SAME]))


def worst_forbidden(parts: Sequence[ThetaPart]) -> float:
    """The longest component that symmetry forbids, as a part of the relaxed weights of its layer."""
    return max(part.forbidden for part in parts)


def symmetric_part(
    field: np.ndarray, positions: np.ndarray, matrices: np.ndarray, turns: np.ndarray
) -> np.ndarray:
    """The part of a field on points that symmetries leave as it is: all that an equivariant network
    can answer.

    Args:
        field: (n, dim).
        positions: (n, 3), which every matrix maps onto themselves.
        matrices: (m, 3, 3).
        turns: (m, dim, dim), what they do to the field.
    """
    mean = np.zeros_like(field)
    for matrix, turn in zip(matrices, turns, strict=True):
        mean += field[sources(positions, matrix)] @ turn.T
    return mean / len(matrices)


def sources(positions: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """From which point (n,) each point comes when a symmetry moves all of them."""
    away = np.linalg.norm(positions[:, None] - (positions @ matrix.T)[None], axis=2)
    found: np.ndarray = away.argmin(axis=1)
    if away.min(axis=1).max() > PLACE or len(set(found.tolist())) < len(found):
        raise ValueError(
            "this matrix does not map the points onto themselves; give symmetries of the points"
        )
    return found
