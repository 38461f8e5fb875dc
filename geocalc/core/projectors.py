"""Constraints of single atoms as orthogonal projectors onto their allowed displacements.

An atom may be confined to a plane, to a line, or to the intersection of several. An allowed
displacement equals its own projection. The projection of a force is the steepest descent direction
within the constraint; it is zero exactly where no allowed displacement changes the energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# column of a file: (n_atoms, 3) normal of the plane that an atom is confined to, zero for none
PLANE_NORMAL = "geocalc_plane_normal"
LINE_DIRECTION = "geocalc_line_direction"  # the same for lines: their directions
# deviations from a Cartesian axis below this are rounding: 1e-12 Angstrom on a way of 10 Angstrom
ON_AXIS = 1e-13
# planes and lines at a smaller angle (radian) are the same, stored with few digits
SAME_ANGLE = 1e-6


@dataclass(frozen=True, kw_only=True)
class AllowedMotion:
    """Allowed motion of the atoms of one structure.

    Attributes:
        fixed: (n_atoms, 3) bool, True for Cartesian components that may not move.
        projector: (n_atoms, 3, 3) projectors onto the allowed displacements, the identity for atoms
            constrained by `fixed` alone; None if that is true of every atom.
    """

    fixed: np.ndarray
    projector: np.ndarray | None


def projector_onto(vectors: np.ndarray) -> np.ndarray:
    """Return the projector (3, 3) onto the space spanned by linearly independent vectors (n, 3)."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    _, _, axes = np.linalg.svd(vectors / lengths, full_matrices=False)
    return axes.T @ axes


def intersection(projectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return the projector (3, 3) onto displacements allowed by all `projectors`, (3, 3) each."""
    identity = np.eye(3)
    binding = [projector for projector in projectors if not np.array_equal(projector, identity)]
    if len(binding) < 2:
        return binding[0] if binding else identity
    _, sizes, axes = np.linalg.svd(np.concatenate([identity - projector for projector in binding]))
    blocked = axes[sizes > SAME_ANGLE]
    return identity - blocked.T @ blocked


def combine(fixed: np.ndarray, spaces: Mapping[int, Sequence[np.ndarray]]) -> AllowedMotion:
    """Combine fixed Cartesian components with planes and lines of single atoms.

    Constraints along Cartesian axes are stored in `fixed`, all others in `projector`.

    Args:
        fixed: (n_atoms, 3) bool, True for fixed components.
        spaces: projectors (3, 3) by atom index.
    Returns:
        The allowed motion; `fixed` is not modified.
    """
    fixed, projector = fixed.copy(), None
    for atom, projectors in spaces.items():
        allowed = intersection([*projectors, np.diag((~fixed[atom]).astype(float))]).copy()
        blocked = blocked_axes(allowed, ON_AXIS)
        allowed[blocked], allowed[:, blocked] = 0.0, 0.0
        fixed[atom] |= blocked
        if not is_axis_aligned(allowed, ON_AXIS):
            if projector is None:
                projector = np.tile(np.eye(3), (len(fixed), 1, 1))
            projector[atom] = allowed
    return AllowedMotion(fixed=fixed, projector=projector)


def blocked_axes(projector: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the Cartesian axes along which a projector (3, 3) allows no motion, (3,) bool."""
    return np.abs(projector).max(axis=1) < tolerance


def is_axis_aligned(projector: np.ndarray, tolerance: float) -> bool:
    """Whether a projector (3, 3) only blocks Cartesian axes."""
    diagonal = np.diag((~blocked_axes(projector, tolerance)).astype(float))
    return bool(np.abs(projector - diagonal).max() < tolerance)


def normals_and_directions(projector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the normals of planes and the directions of lines of projectors (n_atoms, 3, 3).

    Returns:
        Unit normals of planes and unit directions of lines, (n_atoms, 3) each; zero for atoms
        without a plane or line.
    """
    dimension = np.rint(np.trace(projector, axis1=1, axis2=2))
    normals, lines = np.zeros((len(projector), 3)), np.zeros((len(projector), 3))
    for vectors, dyads, confined in (
        (normals, np.eye(3) - projector, dimension == 2),
        (lines, projector, dimension == 1),
    ):
        for atom in np.flatnonzero(confined):
            row = dyads[atom, np.diagonal(dyads[atom]).argmax()]
            vectors[atom] = row / np.linalg.norm(row)
    return normals, lines
