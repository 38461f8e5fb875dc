"""How irreps of O(3) turn, and what of them a point group leaves as it is.

Components are those of e3nn: x, y, z of degree 1; harmonics with y as their polar axis above.
Matrices and directions are Cartesian, so a prism whose long axis is z has its fourfold axis along
z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from geocalc.errors import InputError
from geocalc.nn.require_e3nn import require_e3nn
from geocalc.symmetry.point_groups import as_group

HIGHEST = 11  # degree of which e3nn has harmonics
POINTS = 4  # directions for each component: enough to tell all harmonics apart well
KEPT = 0.5  # eigenvalues of a projector are 0 or 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One copy of an irrep.

    Attributes:
        degree: l.
        parity: 1 (even) or -1 (odd).
        values: (2l + 1,).
    """

    degree: int
    parity: int
    values: np.ndarray

    @property
    def length(self) -> float:
        """Euclidean."""
        return float(np.linalg.norm(self.values))

    def turned(self, matrix: np.ndarray) -> Part:
        """What a matrix (2l + 1, 2l + 1) makes of it."""
        return Part(degree=self.degree, parity=self.parity, values=matrix @ self.values)

    @property
    def is_scalar(self) -> bool:
        """Whether nothing turns or reflects it."""
        return self.degree == 0 and self.parity == 1


def wigner_matrix(degree: int, parity: int, matrices: np.ndarray) -> np.ndarray:
    """What orthogonal matrices do to an irrep: D with Y(R n) = D Y(n), (n, 2l + 1, 2l + 1) float64.

    Solved from the harmonics themselves, to rounding; by way of Euler angles six or seven digits
    would remain.

    Args:
        degree: l, up to 11.
        parity: 1 or -1.
        matrices: (n, 3, 3) orthogonal.
    Raises:
        InputError: there is no such degree or parity.
        MissingDependencyError: e3nn is not installed.
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
    """Real harmonics of e3nn at unit vectors (..., 3), as (..., 2l + 1); together they have length
    one at every point.

    Raises:
        MissingDependencyError: e3nn is not installed.
    """
    require_e3nn("the symmetry of relaxed weights")
    from e3nn import o3

    values: np.ndarray = o3.spherical_harmonics(
        degree, torch.from_numpy(directions), normalize=True, normalization="norm"
    ).numpy()
    return values


def invariant_projector(group: str | np.ndarray, degree: int, parity: int) -> np.ndarray:
    """The projector (2l + 1, 2l + 1) onto what a group leaves as it is: the mean of D over its
    elements.

    Args:
        group: name of a crystal class, or (n, 3, 3) Cartesian matrices.
        degree: l.
        parity: 1 or -1.
    Raises:
        InputError: the group or the irrep is none.
        MissingDependencyError: e3nn is not installed.
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
    """The symmetric traceless matrix M (3, 3) that degree 2 is: n M n is its harmonic along n, and
    |M| = (3/2)^1/2 |values|.

    Args:
        values: (5,) components of e3nn.
    Raises:
        MissingDependencyError: e3nn is not installed.
    """
    products = np.einsum("ki,kj->kij", _directions(2)[0], _directions(2)[0]).reshape(-1, 9)
    solved = np.linalg.pinv(products) @ (harmonics(2, _directions(2)[0]) @ values)
    matrix = solved.reshape(3, 3)
    return 0.5 * (matrix + matrix.T)


@lru_cache(maxsize=HIGHEST + 1)
def _directions(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions (k, 3) all over the sphere, and the pseudo-inverse (2l + 1, k) of the harmonics
    there.
    """
    number = POINTS * (2 * degree + 1)
    height = 1 - (2 * np.arange(number) + 1) / number
    angle = np.pi * (3 - 5**0.5) * np.arange(number)
    width = np.sqrt(1 - height**2)
    directions = np.stack((width * np.cos(angle), width * np.sin(angle), height), axis=1)
    return directions, np.linalg.pinv(harmonics(degree, directions))
