"""ASE constraints <-> what may move: fixed components and projectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled
from ase.geometry import complete_cell

from geocalc.core.projectors import (
    LINE_DIRECTION,
    PLANE_NORMAL,
    AllowedMotion,
    blocked_axes,
    combine,
    is_axis_aligned,
    normals_and_directions,
    projector_onto,
)
from geocalc.errors import InputError

COARSE = 1e-6  # a direction this close to an axis counts as fixed where only a mask is asked for
KEPT = FixAtoms | FixCartesian | FixedPlane | FixedLine | FixScaled


def read_constraints(atoms: Atoms) -> AllowedMotion:
    """What the constraints of a structure hold, and the plane and line columns of a file that
    geocalc wrote.

    Several constraints on one atom hold together: it may move only as all of them allow. A
    FixScaled atom moves along the free lattice vectors.

    Raises:
        InputError: a constraint is of another kind, or has no direction.
    """
    return _read(atoms, [*_constrained(atoms), *_columns(atoms)])


def fixed_mask(atoms: Atoms) -> np.ndarray:
    """Cartesian components that may not move, (n_atoms, 3) bool, where that says all.

    Raises:
        InputError: a constraint holds directions that are not Cartesian axes, or what
            `read_constraints` raises.
    """
    held = _read(atoms, list(_constrained(atoms)))
    fixed = held.fixed.copy()
    for atom, projector in enumerate([] if held.projector is None else held.projector):
        fixed[atom] |= blocked_axes(projector, COARSE)
        if not is_axis_aligned(projector, COARSE):
            names = [
                type(c).__name__ for c in atoms.constraints if np.isin(atom, c.index % len(atoms))
            ]
            raise InputError(
                f"the constraint {' with '.join(names)} holds atom {atom} in directions that are"
                " not Cartesian axes; use FixCartesian, or fix the atom entirely with FixAtoms"
            )
    return fixed


def scaled_space(held: np.ndarray, cell: np.ndarray, what: str) -> np.ndarray:
    """Projector (3, 3) onto the moves that leave the `held` (3,) fractional coordinates of a cell
    (3, 3) as they are.

    Raises:
        InputError: the cell vectors are not independent, so that there are no fractional
            coordinates.
    """
    if held.all() or not held.any():
        return np.diag((~held).astype(float))
    vectors = complete_cell(cell) if np.isfinite(cell).all() else np.zeros((3, 3))
    if np.linalg.matrix_rank(vectors, tol=COARSE) < 3:
        raise InputError(
            f"{what} needs independent cell vectors, got {cell.tolist()}; correct the cell, or use"
            " FixCartesian"
        )
    return projector_onto(vectors[~held])


def ase_constraints(held: AllowedMotion) -> list[KEPT]:
    """The fewest ASE constraints that say the same."""
    fixed = held.fixed
    found: list[KEPT] = []
    if held.projector is not None:
        normals, lines = normals_and_directions(held.projector)
        fixed = fixed & ~lines.any(axis=1, keepdims=True)  # the line says it already
        for kind, vectors in ((FixedPlane, normals), (FixedLine, lines)):
            for vector in np.unique(vectors[vectors.any(axis=1)], axis=0):
                found.append(kind(np.flatnonzero((vectors == vector).all(axis=1)), vector))
    masks = [mask for mask in np.unique(fixed, axis=0) if mask.any()]
    members = [np.flatnonzero((fixed == mask).all(axis=1)) for mask in masks]
    plain: list[KEPT] = [
        FixAtoms(m) if mask.all() else FixCartesian(m, mask)
        for mask, m in zip(masks, members, strict=True)
    ]
    return plain + found


def _read(atoms: Atoms, spaces: list[tuple[int, np.ndarray]]) -> AllowedMotion:
    """Fixed components of FixAtoms and FixCartesian, joined with the projectors of single atoms."""
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms | FixCartesian):
            fixed[constraint.index] |= getattr(constraint, "mask", True)
    by_atom = defaultdict(list)
    for atom, projector in spaces:
        by_atom[atom].append(projector)
    return combine(fixed, by_atom)


def _constrained(atoms: Atoms) -> Iterator[tuple[int, np.ndarray]]:
    """Each atom that a plane, line or fractional coordinates hold, with its projector."""
    for constraint in atoms.constraints:
        name = type(constraint).__name__
        if not isinstance(constraint, KEPT):
            raise InputError(
                f"the constraint {name} cannot be kept in a batched relaxation; use FixAtoms,"
                " FixCartesian, FixedPlane, FixedLine or FixScaled, or remove it with"
                " atoms.set_constraint()"
            )
        index = np.asarray(constraint.index)
        if len(index) and not -len(atoms) <= index.min() <= index.max() < len(atoms):
            raise InputError(
                f"the constraint {name} names atoms {index.tolist()}, but there are {len(atoms)};"
                " correct it"
            )
        if isinstance(constraint, FixScaled):
            space = scaled_space(constraint.mask, np.asarray(atoms.cell), f"the constraint {name}")
        elif isinstance(constraint, FixedPlane | FixedLine):
            space = _along(
                constraint.dir, isinstance(constraint, FixedPlane), f"the constraint {name}"
            )
        else:
            continue
        for atom in index % len(atoms):
            yield int(atom), space


def _columns(atoms: Atoms) -> Iterator[tuple[int, np.ndarray]]:
    """The same of the columns by which files of geocalc keep planes and lines; ASE knows none."""
    for name in (PLANE_NORMAL, LINE_DIRECTION):
        if name not in atoms.arrays:
            continue
        column = np.asarray(atoms.arrays[name])
        if column.shape != (len(atoms), 3) or column.dtype.kind not in "fiu":
            raise InputError(
                f"the column {name} must hold three numbers for each atom; correct it, or remove it"
            )
        for atom in np.flatnonzero(column.any(axis=1)):
            yield (
                int(atom),
                _along(column[atom].astype(float), name == PLANE_NORMAL, f"the column {name}"),
            )


def _along(vector: np.ndarray, is_normal: bool, what: str) -> np.ndarray:
    """Projector (3, 3) onto a line, or onto the plane with this normal."""
    if not (np.isfinite(vector).all() and vector.any()):
        raise InputError(
            f"{what} has the direction {vector.tolist()}; give three finite numbers that are not"
            " all zero"
        )
    line = projector_onto(vector[None])
    return np.eye(3) - line if is_normal else line
