"""Where an atom may move, as the orthogonal projector onto its allowed displacements: a plane, a
line, or what several leave.

An allowed displacement is its own projection, and the projection of a force is the downhill
direction within the constraint, zero exactly where no allowed displacement changes the energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# column of a file: (n_atoms, 3) normal of the plane an atom stays in, zeros where none
PLANE_NORMAL = "geocalc_plane_normal"
LINE_DIRECTION = "geocalc_line_direction"  # likewise, direction of the line an atom stays on
# a direction this close to a Cartesian axis is that axis: 10 Angstrom along it stray by 1e-12
ON_AXIS = 1e-13
SAME = 1e-6  # planes and lines that differ by less than this angle are one, written with few digits


@dataclass(frozen=True, kw_only=True)
class Held:
    """What constraints leave of the freedom of one structure.

    Attributes:
        fixed: (n_atoms, 3) bool, True where a Cartesian component may not move.
        projector: (n_atoms, 3, 3) onto allowed displacements, unity where `fixed` says all; None if
            it does for every atom.
    """

    fixed: np.ndarray
    projector: np.ndarray | None


def onto(vectors: np.ndarray) -> np.ndarray:
    """Projector (3, 3) onto the space that independent vectors (n, 3) span."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    _, _, axes = np.linalg.svd(vectors / lengths, full_matrices=False)
    return axes.T @ axes


def common(projectors: Sequence[np.ndarray]) -> np.ndarray:
    """Projector (3, 3) onto the displacements that all of several projectors (3, 3) allow."""
    unity = np.eye(3)
    binding = [projector for projector in projectors if not np.array_equal(projector, unity)]
    if len(binding) < 2:
        return binding[0] if binding else unity
    _, sizes, axes = np.linalg.svd(np.concatenate([unity - projector for projector in binding]))
    held = axes[sizes > SAME]
    return unity - held.T @ held


def settle(fixed: np.ndarray, spaces: Mapping[int, Sequence[np.ndarray]]) -> Held:
    """Join fixed components with what holds single atoms otherwise; Cartesian axes go to `fixed`,
    the rest to `projector`.

    Args:
        fixed: (n_atoms, 3) bool.
        spaces: projectors (3, 3) by the number of the atom that they hold.
    """
    fixed, projector = fixed.copy(), None
    for atom, given in spaces.items():
        allowed = common([*given, np.diag((~fixed[atom]).astype(float))]).copy()
        still = on_axes(allowed, ON_AXIS)
        allowed[still], allowed[:, still] = 0.0, 0.0
        fixed[atom] |= still
        if not is_mask(allowed, ON_AXIS):
            if projector is None:
                projector = np.tile(np.eye(3), (len(fixed), 1, 1))
            projector[atom] = allowed
    return Held(fixed=fixed, projector=projector)


def on_axes(projector: np.ndarray, tolerance: float) -> np.ndarray:
    """Cartesian components along which a projector (3, 3) allows nothing, (3,) bool."""
    return np.abs(projector).max(axis=1) < tolerance


def is_mask(projector: np.ndarray, tolerance: float) -> bool:
    """Whether a projector (3, 3) does no more than hold Cartesian components."""
    plain = np.diag((~on_axes(projector, tolerance)).astype(float))
    return bool(np.abs(projector - plain).max() < tolerance)


def directions(projector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The planes and lines of projectors (n_atoms, 3, 3).

    Returns:
        Unit normals of planes and unit directions of lines, (n_atoms, 3) each; zeros on atoms that
        have none.
    """
    freedom = np.rint(np.trace(projector, axis1=1, axis2=2))
    normals, lines = np.zeros((len(projector), 3)), np.zeros((len(projector), 3))
    for vectors, dyads, mine in (
        (normals, np.eye(3) - projector, freedom == 2),
        (lines, projector, freedom == 1),
    ):
        for atom in np.flatnonzero(mine):
            row = dyads[atom, np.diagonal(dyads[atom]).argmax()]
            vectors[atom] = row / np.linalg.norm(row)
    return normals, lines
