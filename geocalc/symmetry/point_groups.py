"""Point groups as orthogonal matrices: construction by name and orientation, and identification."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pymatgen.symmetry.groups import PointGroup

from geocalc.core.nearest import nearest
from geocalc.errors import InputError

HERMANN_MAUGUIN = {
    "C1": "1",
    "Ci": "-1",
    "C2": "2",
    "Cs": "m",
    "C2h": "2/m",
    "D2": "222",
    "C2v": "mm2",
    "D2h": "mmm",
    "C4": "4",
    "S4": "-4",
    "C4h": "4/m",
    "D4": "422",
    "C4v": "4mm",
    "D2d": "-42m",
    "D4h": "4/mmm",
    "C3": "3",
    "S6": "-3",
    "D3": "32",
    "C3v": "3m",
    "D3d": "-3m",
    "C6": "6",
    "C3h": "-6",
    "C6h": "6/m",
    "D6": "622",
    "C6v": "6mm",
    "D3h": "-6m2",
    "D6h": "6/mmm",
    "T": "23",
    "Th": "m-3",
    "O": "432",
    "Td": "-43m",
    "Oh": "m-3m",
}  # of the 32 crystal classes, by Schoenflies symbol
OTHER_NAMES = {
    "C3i": "S6",
    "S2": "Ci",
    "C1h": "Cs",
    "S1": "Cs",
    "S3": "C3h",
    "V": "D2",
    "Vh": "D2h",
    "Vd": "D2d",
}
OBLIQUE = ("trigonal", "hexagonal")  # systems whose crystal axes a and b enclose 120 degrees
# these axes and c, as columns
A_AND_B = np.array([[1.0, -0.5, 0.0], [0.0, 0.5 * 3**0.5, 0.0], [0.0, 0.0, 1.0]])
SAME = 1e-4  # elements of a group that differ by less are one
PARALLEL = 1e-3  # 1 - |cosine| of directions below which they are one
# groups with several main axes, by their number of rotations
POLYHEDRAL = {12: "T", 24: "O", 60: "I"}


@dataclass(frozen=True, kw_only=True)
class GroupName:
    """Symbols and order of a point group.

    Attributes:
        schoenflies: Schoenflies symbol, such as D4h.
        hermann_mauguin: Hermann-Mauguin symbol, such as 4/mmm; None outside the 32 crystal classes.
        order: number of elements.
    """

    schoenflies: str
    hermann_mauguin: str | None
    order: int

    def __str__(self) -> str:
        return (
            self.schoenflies
            if self.hermann_mauguin is None
            else f"{self.schoenflies} ({self.hermann_mauguin})"
        )


def point_group(name: str, rotation: np.ndarray | None = None) -> np.ndarray:
    """Return the elements of a crystal class, (n, 3, 3) float64, the identity first.

    The Cartesian axes are those of the International Tables: main axis along z (monoclinic groups:
    y), cubic axes along x, y and z, the crystal axis a of trigonal and hexagonal groups along x, so
    that mirrors of 3m are perpendicular to x.

    Args:
        name: Hermann-Mauguin or Schoenflies symbol of one of the 32 crystal classes, such as m-3m
            or Oh.
        rotation: (3, 3) orthogonal R; returns the group R G R^-1.
    Raises:
        InputError: no crystal class has that name, or the rotation is not orthogonal.
    """
    matrices = _elements(HERMANN_MAUGUIN[_schoenflies(name)])
    return matrices.copy() if rotation is None else rotated_group(matrices, rotation)


def rotated_group(matrices: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Rotate a group to another orientation: R G R^-1, (n, 3, 3).

    Args:
        matrices: (n, 3, 3) elements of G.
        rotation: (3, 3) orthogonal R.
    Raises:
        InputError: the rotation is not orthogonal.
    """
    rotation = np.asarray(rotation, dtype=np.float64)
    if rotation.shape != (3, 3) or not _orthogonal(rotation[None]):
        raise InputError(
            "an orientation must be an orthogonal matrix of shape (3, 3), got shape"
            f" {rotation.shape}; its rows and columns are unit vectors at right angles"
        )
    return rotation @ matrices @ rotation.T


def as_group(group: str | np.ndarray) -> np.ndarray:
    """Return the elements (n, 3, 3) of a group given by its name or by its matrices.

    Raises:
        InputError: see `point_group` and `check_group`.
    """
    if isinstance(group, str):
        return point_group(group)
    matrices = np.asarray(group, dtype=np.float64)
    check_group(matrices)
    return matrices


def check_group(matrices: np.ndarray) -> None:
    """Check that matrices form a point group.

    Args:
        matrices: (n, 3, 3).
    Raises:
        InputError: the shape is wrong, a matrix is not orthogonal, or the product of two matrices
            is missing.
    """
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3) or len(matrices) == 0:
        raise InputError(
            f"a point group must have shape (n, 3, 3) with n at least 1, got {matrices.shape};"
            " stack its matrices"
        )
    if not _orthogonal(matrices):
        raise InputError(
            "these matrices are not orthogonal; a point group consists of rotations and reflections"
            " in Cartesian coordinates, so turn those of a crystal basis into Cartesian ones first"
        )
    if not is_closed(matrices):
        raise InputError(
            f"these {len(matrices)} matrices are not closed: a product of two of them is missing;"
            " give all elements of the group, each of them once"
        )


def is_closed(matrices: np.ndarray) -> bool:
    """Return whether all products of matrices (n, 3, 3) are among them, and all are different."""
    flat = matrices.reshape(len(matrices), 9)
    products = np.einsum("aij,bjk->abik", matrices, matrices).reshape(-1, 9)
    return bool(
        _places(products, flat).min(initial=0) >= 0
        and len(np.unique(_places(flat, flat))) == len(flat)
    )


def identify_point_group(matrices: np.ndarray) -> GroupName:
    """Name a point group in any orientation; D5h, Ih and the like are named too.

    Args:
        matrices: (n, 3, 3).
    Raises:
        InputError: see `check_group`.
    """
    check_group(matrices)
    symbol = _symbol(matrices)
    return GroupName(
        schoenflies=symbol, hermann_mauguin=HERMANN_MAUGUIN.get(symbol), order=len(matrices)
    )


def _symbol(matrices: np.ndarray) -> str:
    """Derive the Schoenflies symbol from the rotations, their axes and the mirrors."""
    proper = np.linalg.det(matrices) > 0
    rotations, rest, traces = (
        matrices[proper],
        matrices[~proper],
        np.trace(matrices, axis1=1, axis2=2),
    )
    axes = _axes(rotations[traces[proper] < 3 - SAME])
    normals = _axes(-rest[np.abs(traces[~proper] - 1) < SAME])
    if len(axes) == 0:
        return "C1" if len(rest) == 0 else "Cs" if len(normals) else "Ci"
    fold = 1 + (np.abs(axes @ axes.T) > 1 - PARALLEL).sum(axis=1)
    n, centered = int(fold.max()), bool((np.abs(traces[~proper] + 3) < SAME).any())
    if len(rotations) > 2 * n:
        return POLYHEDRAL[len(rotations)] + ("" if len(rest) == 0 else "h" if centered else "d")
    horizontal = bool((np.abs(normals @ axes[fold == n].T) > 1 - PARALLEL).any())
    letter = "C" if len(rotations) == n else "D"
    if len(rest) == 0:
        return f"{letter}{n}"
    if horizontal:
        return f"{letter}{n}h"
    if letter == "D":
        return f"D{n}d"
    return f"C{n}v" if len(normals) else f"S{2 * n}"


def _axes(rotations: np.ndarray) -> np.ndarray:
    """Compute the axes (n, 3) of rotations (n, 3, 3) other than the identity."""
    return np.linalg.svd(rotations - np.eye(3))[2][:, 2]


def _places(wanted: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Find the index of each of `rows` (m, 9) in `present` (n, 9), (m,); -1 if missing."""
    away = np.abs(wanted[:, None] - present[None]).max(axis=2)
    return np.where(away.min(axis=1) < SAME, away.argmin(axis=1), -1)


def _orthogonal(matrices: np.ndarray) -> bool:
    return bool((np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)) < SAME).all())


def _schoenflies(name: str) -> str:
    """Convert any name of a crystal class to its Schoenflies symbol; case does not matter."""
    known = {symbol.lower(): symbol for symbol in HERMANN_MAUGUIN}
    known |= {symbol: schoenflies for schoenflies, symbol in HERMANN_MAUGUIN.items()}
    known |= {other.lower(): symbol for other, symbol in OTHER_NAMES.items()}
    plain = name.replace(" ", "").replace("_", "").lower()
    if plain not in known:
        both = [*HERMANN_MAUGUIN, *HERMANN_MAUGUIN.values()]
        raise InputError(f"no crystal class is named {name!r}; {nearest(plain, both)}")
    return known[plain]


@lru_cache(maxsize=len(HERMANN_MAUGUIN))
def _elements(symbol: str) -> np.ndarray:
    """Return the Cartesian elements of a crystal class.

    The order is: identity, rotations by falling trace, the others.
    """
    group = PointGroup(symbol)
    found = np.array(
        [operation.rotation_matrix for operation in group.symmetry_ops], dtype=np.float64
    )
    if group.crystal_system in OBLIQUE:
        found = A_AND_B @ found @ np.linalg.inv(A_AND_B)
    rounded = np.round(found, 6).reshape(-1, 9)
    traces, signs = np.trace(found, axis1=1, axis2=2).round(6), np.linalg.det(found).round()
    return found[np.lexsort((*rounded.T, -traces, -signs))]
