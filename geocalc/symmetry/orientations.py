"""Where a point group lies best: the orientation in which it keeps most of what relaxed weights
have become.
"""

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
    """Where a group lies.

    Attributes:
        rotation: (3, 3) R, for the group R G R^-1; of those that give the same group the one by the
            smallest angle.
        share: of the squared length of what is not 0e, that this group leaves as it is.
    """

    rotation: np.ndarray
    share: float


def best_orientation(weights: Theta | Iterable[Theta], group: str | np.ndarray) -> Orientation:
    """The rotation R of a group G for which R G R^-1 keeps the largest share of relaxed weights,
    all together.

    Args:
        weights: of one layer or of several.
        group: by name or as (n, 3, 3) Cartesian matrices.
    Raises:
        InputError: all weights but those of 0e are zero, so that no orientation is better than
            another, or the group is none.
        MissingDependencyError: e3nn is not installed.
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
        degree: l.
        rows: (n, 2l + 1) values.
        basis: (dim, 2l + 1) of what the group keeps.
    """

    degree: int
    rows: np.ndarray
    basis: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Part], group: np.ndarray, degree: int, parity: int) -> _Kind:
        """The parts of one irrep, and what a group keeps of it."""
        rows = [part.values for part in parts if (part.degree, part.parity) == (degree, parity)]
        return cls(degree=degree, rows=np.array(rows), basis=invariant_basis(group, degree, parity))

    def turned_back(self, turns: np.ndarray) -> np.ndarray:
        """The values after the inverses of rotations (m, 3, 3), as (m, n, 2l + 1)."""
        return np.einsum("mji,nj->mni", wigner_matrix(self.degree, 1, turns), self.rows)


def _shares(kinds: Sequence[_Kind], turns: np.ndarray) -> np.ndarray:
    """Shares (m,) that the group keeps after each of the rotations (m, 3, 3)."""
    kept = sum(((kind.turned_back(turns) @ kind.basis.T) ** 2).sum(axis=(1, 2)) for kind in kinds)
    shares: np.ndarray = kept / sum(float((kind.rows**2).sum()) for kind in kinds)
    return shares


def _refined(kinds: Sequence[_Kind], start: np.ndarray) -> np.ndarray:
    """The rotation near a given one (3, 3) after which the least is forbidden."""

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
    """Rotations (number, 3, 3), evenly over SO(3).

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
