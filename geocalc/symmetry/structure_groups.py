"""Point group of a molecule, a crystal or a slab, as Cartesian matrices."""

from __future__ import annotations

import warnings

import numpy as np
import spglib
from ase import Atoms

from geocalc.errors import InputError
from geocalc.symmetry.point_groups import is_closed

# sine of the angle between two atoms, seen from the center, below which they are in line with it
STRAIGHT = 1e-2
ROUNDS = 10  # of averaging an imperfect molecule over its own symmetry
VACUUM = 10.0  # Angstrom


def find_point_group(atoms: Atoms, tolerance: float = 0.05) -> np.ndarray:
    """Determine the point group of a structure, (n, 3, 3) float64 Cartesian matrices.

    For a structure that is periodic along two or three vectors it is the point group of the space
    group; translations and tags do not matter. An imperfect structure gives the exact group of the
    nearest perfect structure.

    Args:
        atoms: structure.
        tolerance: Angstrom, largest distance between a transformed atom and an equivalent atom.
    Raises:
        InputError: there are no atoms, all lie on a line (an infinite group), the structure is
            periodic along one vector, or no group is found.
    """
    if len(atoms) == 0:
        raise InputError("a structure without atoms has no point group; give one with atoms")
    periodic = int(np.sum(atoms.pbc))
    if periodic == 0:
        return _molecule(
            np.array(atoms.positions, dtype=np.float64), np.array(atoms.numbers), tolerance
        )
    if periodic == 1:
        raise InputError(
            "the structure is periodic along one vector only; make it periodic along two or three,"
            " or along none"
        )
    return _crystal(atoms, tolerance)


def _molecule(positions: np.ndarray, numbers: np.ndarray, tolerance: float) -> np.ndarray:
    """Find all orthogonal matrices about the center that map atoms to atoms of the same element.

    Two atoms that are not collinear with the center determine such a matrix, up to a reflection at
    their plane; all images of the pair are tried.
    """
    positions = positions - positions.mean(axis=0)
    first, second = _pair(positions, numbers, tolerance)
    start = _frame(positions[first], positions[second])
    sources = []
    for one in _alike(first, positions, numbers, tolerance):
        for other in _alike(second, positions, numbers, tolerance):
            away = np.linalg.norm(positions[one] - positions[other]) - np.linalg.norm(
                positions[first] - positions[second]
            )
            if one == other or abs(away) > 2 * tolerance:
                continue
            for mirror in (1.0, -1.0):
                matrix = (
                    _frame(positions[one], positions[other]) @ np.diag((1.0, 1.0, mirror)) @ start.T
                )
                source = _onto(positions @ matrix.T, positions, numbers, 2 * tolerance)
                if source is not None:
                    sources.append((source, mirror))
    for _ in range(ROUNDS):
        matrices = np.array(
            [_best(positions, positions[source], mirror) for source, mirror in sources]
        )
        back = [
            positions[source] @ matrix
            for (source, _), matrix in zip(sources, matrices, strict=True)
        ]
        positions = np.mean(back, axis=0)
    if not is_closed(matrices):
        raise InputError(
            f"within {tolerance} Angstrom the symmetry of this molecule is ambiguous; choose a"
            " smaller tolerance"
        )
    return matrices


def _pair(positions: np.ndarray, numbers: np.ndarray, tolerance: float) -> tuple[int, int]:
    """Choose two atoms that are not collinear with the center and have few equivalent atoms."""
    lengths = np.linalg.norm(positions, axis=1)
    order = sorted(
        np.flatnonzero(lengths > tolerance).tolist(),
        key=lambda k: len(_alike(k, positions, numbers, tolerance)),
    )
    for first in order:
        for second in order:
            sine = np.linalg.norm(np.cross(positions[first], positions[second])) / (
                lengths[first] * lengths[second]
            )
            if sine > STRAIGHT and sine * min(lengths[first], lengths[second]) > tolerance:
                return first, second
    raise InputError(
        "all atoms lie on one line, so that infinitely many rotations keep them; such a group"
        " cannot be listed"
    )


def _alike(atom: int, positions: np.ndarray, numbers: np.ndarray, tolerance: float) -> np.ndarray:
    """Find the atoms of the same element at the same distance from the center."""
    lengths = np.linalg.norm(positions, axis=1)
    return np.flatnonzero(
        (numbers == numbers[atom]) & (np.abs(lengths - lengths[atom]) < tolerance)
    )


def _frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return right-handed axes (3, 3), as columns, from two vectors.

    x is along the first vector, z normal to both.
    """
    x = first / np.linalg.norm(first)
    z = np.cross(first, second)
    z /= np.linalg.norm(z)
    return np.stack((x, np.cross(z, x), z), axis=1)


def _onto(
    places: np.ndarray, positions: np.ndarray, numbers: np.ndarray, reach: float
) -> np.ndarray | None:
    """Match transformed positions (n, 3) with atoms of the same element, one to one.

    Returns:
        (n,) index of the atom at each position.
    """
    away = np.linalg.norm(places[:, None] - positions[None], axis=2)
    met = away.argmin(axis=1)
    near = (away.min(axis=1) < reach) & (numbers[met] == numbers)
    return met if bool(near.all()) and len(np.unique(met)) == len(met) else None


def _best(positions: np.ndarray, targets: np.ndarray, sign: float) -> np.ndarray:
    """Find the orthogonal matrix that maps positions (n, 3) closest to targets.

    The sign of its determinant is given.

    Source: Kabsch, Acta Cryst. A 32, 922 (1976).
    """
    left, _, right = np.linalg.svd(targets.T @ positions)
    turn: np.ndarray = (
        left @ np.diag((1.0, 1.0, sign * np.sign(np.linalg.det(left @ right)))) @ right
    )
    return turn


def _crystal(atoms: Atoms, tolerance: float) -> np.ndarray:
    """Determine the rotations of the space group, made exact by symmetrizing the cell."""
    cell = _whole_cell(atoms)
    fractional = np.linalg.solve(cell.T, atoms.positions.T).T
    smallest = None
    with warnings.catch_warnings():
        # of its present way to say that there is none
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            whole = (cell.tolist(), fractional.tolist(), atoms.numbers.tolist())
            smallest = spglib.standardize_cell(
                whole, to_primitive=True, no_idealize=True, symprec=tolerance
            )
            found = (
                None
                if smallest is None
                else spglib.get_symmetry_dataset(smallest, symprec=tolerance)
            )
        except spglib.SpglibError:
            found = None
    if smallest is None or found is None:
        raise InputError(
            f"no space group was found within {tolerance} Angstrom; check the structure for atoms"
            " that overlap"
        )
    # a supercell would hide operations that do not keep its own vectors
    cell = np.array(smallest[0], dtype=np.float64)
    rotations = np.unique(found.rotations, axis=0).astype(np.float64)
    metric = np.mean(rotations.transpose(0, 2, 1) @ (cell @ cell.T) @ rotations, axis=0)
    lengths, axes = np.linalg.eigh(np.linalg.solve(cell, np.linalg.solve(cell, metric).T))
    exact = cell @ (axes * np.sqrt(lengths)) @ axes.T
    matrices: np.ndarray = exact.T @ rotations @ np.linalg.inv(exact.T)
    return matrices


def _whole_cell(atoms: Atoms) -> np.ndarray:
    """Return a cell (3, 3) of full rank in Angstrom.

    The third vector of a slab is made normal to the plane and longer than any other lattice vector.
    """
    cell = np.array(atoms.cell, dtype=np.float64)
    if not atoms.pbc.all():
        open_end = int(np.flatnonzero(~atoms.pbc)[0])
        first, second = (cell[k] for k in range(3) if k != open_end)
        normal = np.cross(first, second)
        if np.linalg.norm(normal) > 0:
            normal /= np.linalg.norm(normal)
            thick = float(np.ptp(atoms.positions @ normal))
            cell[open_end] = normal * (
                thick + VACUUM + np.linalg.norm(first) + np.linalg.norm(second)
            )
    if abs(np.linalg.det(cell)) < 1e-6:
        raise InputError(
            "the periodic vectors of the cell span no volume; give a cell with vectors that are not"
            " parallel or zero"
        )
    return cell
