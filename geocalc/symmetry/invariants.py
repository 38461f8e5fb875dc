"""Representations of O(3) on irreps, and the subspaces that are invariant under a point group.

Components follow e3nn: x, y, z for degree 1; harmonics with y as their polar axis for higher
degrees. Matrices and directions are Cartesian, so a prism whose long axis is z has its fourfold
axis along z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from geocalc.errors import InputError
from geocalc.symmetry.point_groups import as_group

HIGHEST = 11  # degree of which e3nn has harmonics
POINTS = 4  # directions for each component: enough to tell all harmonics apart well
KEPT = 0.5  # eigenvalues of a projector are 0 or 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Components of one copy of an irrep.

    Attributes:
        degree: degree l.
        parity: 1 (even) or -1 (odd).
        values: (2l + 1,) components.
    """

    degree: int
    parity: int
    values: np.ndarray

    @property
    def length(self) -> float:
        """Euclidean norm of the components."""
        return float(np.linalg.norm(self.values))

    def turned(self, matrix: np.ndarray) -> Part:
        """Multiply the components by a matrix (2l + 1, 2l + 1)."""
        return Part(degree=self.degree, parity=self.parity, values=matrix @ self.values)

    @property
    def is_scalar(self) -> bool:
        """Whether the irrep is 0e, which rotations and reflections leave unchanged."""
        return self.degree == 0 and self.parity == 1


def wigner_matrix(degree: int, parity: int, matrices: np.ndarray) -> np.ndarray:
    """Compute the representation matrices of an irrep: D with Y(R n) = D Y(n).

    The matrices are solved from the harmonics, exact to rounding; Euler angles would lose all but
    six or seven digits.

    Args:
        degree: degree l, up to 11.
        parity: 1 or -1.
        matrices: (n, 3, 3) orthogonal.
    Returns:
        (n, 2l + 1, 2l + 1) float64.
    Raises:
        InputError: the degree or the parity is out of range.
    """
    if not 0 <= degree <= HIGHEST or parity not in (1, -1):
        raise InputError(
            f"degree must be 0 to {HIGHEST} and parity 1 or -1, got {degree} and {parity}"
        )
    signs = np.sign(np.linalg.det(matrices))
    directions, inverse = _directions(degree)
    there = np.einsum("nij,kj->nki", signs[:, None, None] * matrices, directions)
    turns = np.einsum("ck,nkd->ndc", inverse, harmonics(degree, there))
    return np.where(signs < 0, parity, 1)[:, None, None] * turns


def harmonics(degree: int, directions: np.ndarray) -> np.ndarray:
    """Evaluate the real spherical harmonics of e3nn at unit vectors.

    Args:
        degree: degree l.
        directions: (..., 3) unit vectors.
    Returns:
        (..., 2l + 1); the components have norm one at every point.
    """
    from geocalc.nn.irreps import o3

    values: np.ndarray = o3.spherical_harmonics(
        degree, torch.from_numpy(directions), normalize=True, normalization="norm"
    ).numpy()
    return values


def invariant_projector(group: str | np.ndarray, degree: int, parity: int) -> np.ndarray:
    """Compute the projector onto the subspace of an irrep that is invariant under a group.

    The projector is the mean of D over the elements of the group.

    Args:
        group: name of a crystal class, or (n, 3, 3) Cartesian matrices.
        degree: degree l.
        parity: 1 or -1.
    Returns:
        (2l + 1, 2l + 1) symmetric.
    Raises:
        InputError: the group is invalid, or the degree or parity is out of range.
    """
    mean: np.ndarray = wigner_matrix(degree, parity, as_group(group)).mean(axis=0)
    return 0.5 * (mean + mean.T)


def invariant_basis(group: str | np.ndarray, degree: int, parity: int) -> np.ndarray:
    """An orthonormal basis (dim, 2l + 1) of what a group leaves as it is; arguments and errors as
    of `invariant_projector`.
    """
    values, vectors = np.linalg.eigh(invariant_projector(group, degree, parity))
    basis: np.ndarray = vectors[:, values > KEPT].T
    return basis


def quadrupole_matrix(values: np.ndarray) -> np.ndarray:
    """Convert the components of degree 2 to a symmetric traceless matrix M.

    The harmonic along n is n M n, and |M| = (3/2)^1/2 |values|.

    Args:
        values: (5,) components of e3nn.
    Returns:
        (3, 3).
    """
    products = np.einsum("ki,kj->kij", _directions(2)[0], _directions(2)[0]).reshape(-1, 9)
    solved = np.linalg.pinv(products) @ (harmonics(2, _directions(2)[0]) @ values)
    matrix = solved.reshape(3, 3)
    return 0.5 * (matrix + matrix.T)


@lru_cache(maxsize=HIGHEST + 1)
def _directions(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Distribute directions over the sphere and invert the harmonics there.

    Returns:
        (k, 3) unit vectors and the pseudo-inverse (2l + 1, k) of their harmonics.
    """
    number = POINTS * (2 * degree + 1)
    height = 1 - (2 * np.arange(number) + 1) / number
    angle = np.pi * (3 - 5**0.5) * np.arange(number)
    width = np.sqrt(1 - height**2)
    directions = np.stack((width * np.cos(angle), width * np.sin(angle), height), axis=1)
    return directions, np.linalg.pinv(harmonics(degree, directions))
