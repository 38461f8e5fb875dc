"""Orientation of a point group that leaves the largest fraction of relaxed weights invariant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from geocalc.errors import InputError
from geocalc.nn.relaxed_weights import Theta
from geocalc.symmetry.invariants import Part, invariant_basis, wigner_matrix
from geocalc.symmetry.point_groups import as_group
from geocalc.symmetry.report import parts_of

GRID = 2000  # rotations, 14 degrees apart
STARTS = 4  # of them that are refined
ALIKE = 1e-6  # shares that differ by less are one
PHI, PSI = 2**0.5, 1.533751168755204288118041


@dataclass(frozen=True, kw_only=True, eq=False)
class Orientation:
    """Orientation of a group.

    Attributes:
        rotation: (3, 3) R of the rotated group R G R^-1; of equivalent rotations the one with the
            smallest angle.
        kept_fraction: fraction of the squared norm of all irreps other than 0e that is invariant
            under the rotated group.
    """

    rotation: np.ndarray
    share: float


def best_orientation(weights: Theta | Iterable[Theta], group: str | np.ndarray) -> Orientation:
    """Find the rotation R for which R G R^-1 keeps the largest fraction of relaxed weights.

    Args:
        weights: relaxed weights of one layer or of several layers, which are optimized together.
        group: name of a crystal class, or (n, 3, 3) Cartesian matrices.
    Raises:
        InputError: all weights other than those of 0e are zero, so that all orientations are equal,
            or the group is invalid.
    """
    matrices = as_group(group)
    layers = [weights] if isinstance(weights, Theta) else list(weights)
    parts = [
        part
        for theta in layers
        for part in parts_of(theta)
        if not part.is_scalar and part.length > 0
    ]
    if not parts:
        raise InputError(
            "the relaxed weights break no symmetry, so no orientation of a group is better than"
            " another"
        )
    kinds = [
        _Kind.of(parts, matrices, *kind)
        for kind in sorted({(part.degree, part.parity) for part in parts})
    ]
    grid = _grid(GRID)
    first = np.argsort(-_shares(kinds, grid), kind="stable")[:STARTS]
    turns = np.stack([np.eye(3), *(_refined(kinds, turn) for turn in grid[first])])
    shares = _shares(kinds, turns)
    best = turns[shares > shares.max() - ALIKE]
    same = np.concatenate([turn @ matrices[np.linalg.det(matrices) > 0] for turn in best])
    return Orientation(
        rotation=same[np.trace(same, axis1=1, axis2=2).argmax()], share=float(shares.max())
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kind:
    """All copies of an irrep, in all layers.

    Attributes:
        degree: degree l.
        rows: (n, 2l + 1) components of the copies.
        basis: (dimension, 2l + 1) basis of the subspace that is invariant under the group.
    """

    degree: int
    rows: np.ndarray
    basis: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Part], group: np.ndarray, degree: int, parity: int) -> _Kind:
        """Collect the copies of one irrep and the invariant subspace of a group."""
        rows = [part.values for part in parts if (part.degree, part.parity) == (degree, parity)]
        return cls(degree=degree, rows=np.array(rows), basis=invariant_basis(group, degree, parity))

    def turned_back(self, turns: np.ndarray) -> np.ndarray:
        """Apply the inverses of rotations (m, 3, 3) to the components, (m, n, 2l + 1)."""
        return np.einsum("mji,nj->mni", wigner_matrix(self.degree, 1, turns), self.rows)


def _shares(kinds: Sequence[_Kind], turns: np.ndarray) -> np.ndarray:
    """Compute the kept fraction (m,) of the squared norm for each rotation (m, 3, 3)."""
    kept = sum(((kind.turned_back(turns) @ kind.basis.T) ** 2).sum(axis=(1, 2)) for kind in kinds)
    shares: np.ndarray = kept / sum(float((kind.rows**2).sum()) for kind in kinds)
    return shares


def _refined(kinds: Sequence[_Kind], start: np.ndarray) -> np.ndarray:
    """Refine a rotation (3, 3) by least squares to minimize the components that change."""

    def forbidden(vector: np.ndarray) -> np.ndarray:
        turn = (start @ Rotation.from_rotvec(vector).as_matrix())[None]
        back = [kind.turned_back(turn)[0] for kind in kinds]
        return np.concatenate(
            [
                (one - one @ kind.basis.T @ kind.basis).ravel()
                for kind, one in zip(kinds, back, strict=True)
            ]
        )

    found = least_squares(forbidden, np.zeros(3), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    refined: np.ndarray = start @ Rotation.from_rotvec(found.x).as_matrix()
    return refined


def _grid(number: int) -> np.ndarray:
    """Distribute rotations (number, 3, 3) evenly over SO(3).

    Source: Alexa, Super-Fibonacci Spirals: Fast, Low-Discrepancy Sampling of SO(3), CVPR 2022.
    """
    s = np.arange(number) + 0.5
    inner, outer = np.sqrt(s / number), np.sqrt(1 - s / number)
    a, b = 2 * np.pi * s / PHI, 2 * np.pi * s / PSI
    quaternions = np.stack(
        (inner * np.sin(a), inner * np.cos(a), outer * np.sin(b), outer * np.cos(b)), axis=1
    )
    turns: np.ndarray = Rotation.from_quat(quaternions).as_matrix()
    return turns
