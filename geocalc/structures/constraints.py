"""Conversion of ASE constraints to and from fixed components and projectors."""

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

AXIS_TOLERANCE = 1e-6  # largest deviation from a Cartesian axis in `fixed_mask`
SUPPORTED = FixAtoms | FixCartesian | FixedPlane | FixedLine | FixScaled


def read_constraints(atoms: Atoms) -> AllowedMotion:
    """Read the constraints of a structure.

    Includes the plane and line columns of files written by geocalc.

    If an atom has several constraints, all of them apply. A FixScaled atom may move along the free
    lattice vectors.

    Raises:
        InputError: a constraint is of an unsupported type or has no direction.
    """
    return _combine(atoms, [*_constraint_projectors(atoms), *_column_projectors(atoms)])


def fixed_mask(atoms: Atoms) -> np.ndarray:
    """Return the Cartesian components that may not move, (n_atoms, 3) bool.

    Raises:
        InputError: a constraint fixes directions other than Cartesian axes; also the errors of
            `read_constraints`.
    """
    motion = _combine(atoms, list(_constraint_projectors(atoms)))
    fixed = motion.fixed.copy()
    for atom, projector in enumerate([] if motion.projector is None else motion.projector):
        fixed[atom] |= blocked_axes(projector, AXIS_TOLERANCE)
        if not is_axis_aligned(projector, AXIS_TOLERANCE):
            names = [
                type(c).__name__ for c in atoms.constraints if np.isin(atom, c.index % len(atoms))
            ]
            raise InputError(
                f"the constraint {' with '.join(names)} fixes atom {atom} along directions that are"
                " not Cartesian axes; use FixCartesian, or fix the atom entirely with FixAtoms"
            )
    return fixed


def scaled_projector(fixed: np.ndarray, cell: np.ndarray, what: str) -> np.ndarray:
    """Return the projector (3, 3) onto displacements that preserve some fractional coordinates.

    Args:
        fixed: (3,) bool, True for coordinates that may not change.
        cell: (3, 3) Angstrom.
        what: name of the constraint, for the message.
    Raises:
        InputError: the lattice vectors are linearly dependent.
    """
    if fixed.all() or not fixed.any():
        return np.diag((~fixed).astype(float))
    vectors = complete_cell(cell) if np.isfinite(cell).all() else np.zeros((3, 3))
    if np.linalg.matrix_rank(vectors, tol=AXIS_TOLERANCE) < 3:
        raise InputError(
            f"{what} needs linearly independent lattice vectors, got {cell.tolist()}; correct the"
            " cell, or use FixCartesian"
        )
    return projector_onto(vectors[~fixed])


def ase_constraints(motion: AllowedMotion) -> list[SUPPORTED]:
    """Convert allowed motion to the smallest equivalent list of ASE constraints."""
    fixed = motion.fixed
    planes_and_lines: list[SUPPORTED] = []
    if motion.projector is not None:
        normals, lines = normals_and_directions(motion.projector)
        fixed = fixed & ~lines.any(axis=1, keepdims=True)  # implied by the line
        for kind, vectors in ((FixedPlane, normals), (FixedLine, lines)):
            for vector in np.unique(vectors[vectors.any(axis=1)], axis=0):
                planes_and_lines.append(
                    kind(np.flatnonzero((vectors == vector).all(axis=1)), vector)
                )
    masks = [mask for mask in np.unique(fixed, axis=0) if mask.any()]
    members = [np.flatnonzero((fixed == mask).all(axis=1)) for mask in masks]
    cartesian: list[SUPPORTED] = [
        FixAtoms(m) if mask.all() else FixCartesian(m, mask)
        for mask, m in zip(masks, members, strict=True)
    ]
    return cartesian + planes_and_lines


def _combine(atoms: Atoms, spaces: list[tuple[int, np.ndarray]]) -> AllowedMotion:
    """Combine the fixed components of FixAtoms and FixCartesian with projectors of single atoms."""
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms | FixCartesian):
            fixed[constraint.index] |= getattr(constraint, "mask", True)
    by_atom = defaultdict(list)
    for atom, projector in spaces:
        by_atom[atom].append(projector)
    return combine(fixed, by_atom)


def _constraint_projectors(atoms: Atoms) -> Iterator[tuple[int, np.ndarray]]:
    """Generate each atom confined by FixedPlane, FixedLine or FixScaled, with its projector."""
    for constraint in atoms.constraints:
        name = type(constraint).__name__
        if not isinstance(constraint, SUPPORTED):
            raise InputError(
                f"the constraint {name} is not supported in a batched relaxation; use FixAtoms,"
                " FixCartesian, FixedPlane, FixedLine or FixScaled, or remove it with"
                " atoms.set_constraint()"
            )
        index = np.asarray(constraint.index)
        if len(index) and not -len(atoms) <= index.min() <= index.max() < len(atoms):
            raise InputError(
                f"the constraint {name} has indices {index.tolist()}, but there are {len(atoms)}"
                " atoms; correct the indices"
            )
        if isinstance(constraint, FixScaled):
            space = scaled_projector(
                constraint.mask, np.asarray(atoms.cell), f"the constraint {name}"
            )
        elif isinstance(constraint, FixedPlane | FixedLine):
            space = _plane_or_line_projector(
                constraint.dir, isinstance(constraint, FixedPlane), f"the constraint {name}"
            )
        else:
            continue
        for atom in index % len(atoms):
            yield int(atom), space


def _column_projectors(atoms: Atoms) -> Iterator[tuple[int, np.ndarray]]:
    """Generate each atom with a plane or line column of geocalc's files, with its projector.

    ASE has no column for planes and lines.
    """
    for name in (PLANE_NORMAL, LINE_DIRECTION):
        if name not in atoms.arrays:
            continue
        column = np.asarray(atoms.arrays[name])
        if column.shape != (len(atoms), 3) or column.dtype.kind not in "fiu":
            raise InputError(
                f"the column {name} must have three numbers for each atom, got shape"
                f" {column.shape} of type {column.dtype}; correct it, or remove it"
            )
        for atom in np.flatnonzero(column.any(axis=1)):
            yield (
                int(atom),
                _plane_or_line_projector(
                    column[atom].astype(float), name == PLANE_NORMAL, f"the column {name}"
                ),
            )


def _plane_or_line_projector(vector: np.ndarray, is_normal: bool, what: str) -> np.ndarray:
    """Return the projector (3, 3) onto a line, or onto the plane with the given normal."""
    if not (np.isfinite(vector).all() and vector.any()):
        raise InputError(
            f"{what} has the direction {vector.tolist()}; give three finite numbers that are not"
            " all zero"
        )
    line = projector_onto(vector[None])
    return np.eye(3) - line if is_normal else line
