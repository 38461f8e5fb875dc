"""Stabilizer of tensors: the largest group of O(3) that leaves them invariant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from scipy.spatial.transform import Rotation

from geocalc.symmetry.invariants import Part, quadrupole_matrix, wigner_matrix
from geocalc.symmetry.point_groups import (
    identify_point_group,
    is_closed,
    point_group,
    rotated_group,
)

PARENTS = ("Oh", "D6h")  # every crystal class is a subgroup of one of them
# radians; what a turn by each leaves is left by every turn, as neither is a fraction of a circle
ANGLES = (1.0, 1.7)
SAME = 0.02  # sine of the angle between two axes below which they are one
MOST = 6  # axes that tensors may suggest
AZIMUTHS = 180  # of mirrors and half-turns that are tried about each of them
ROUNDS, FINE = 7, 41  # of trying closer angles, and how many each time


@dataclass(frozen=True, kw_only=True, eq=False)
class Stabilizer:
    """Subgroup of O(3).

    Attributes:
        schoenflies: such as D4h; O(3) if no symmetry is broken, SO(3) if only reflections are, C∞v
            and the like for axial groups.
        hermann_mauguin: such as 4/mmm; None outside the crystal classes.
        matrices: (n, 3, 3) Cartesian elements; None for an infinite group.
        axis: (3,) unit vector of an infinite group about one axis; None for others.
    """

    schoenflies: str
    hermann_mauguin: str | None = None
    matrices: np.ndarray | None = None
    axis: np.ndarray | None = None

    @property
    def order(self) -> int | None:
        """Number of elements; None for an infinite group."""
        return None if self.matrices is None else len(self.matrices)

    def __str__(self) -> str:
        known = "" if self.hermann_mauguin is None else f" ({self.hermann_mauguin})"
        about = "" if self.axis is None else f" about {direction_text(self.axis)}"
        return f"{self.schoenflies}{known}{about}"


def direction_text(direction: np.ndarray) -> str:
    """Format a direction (3,)."""
    return "(" + " ".join(f"{0.0 if abs(x) < 5e-4 else x:.3f}" for x in direction) + ")"


def find_stabilizer(
    layers: Sequence[Sequence[Part]],
    tolerance: float,
    group: np.ndarray | None = None,
    orientation: np.ndarray | None = None,
) -> Stabilizer:
    """Find the largest group that leaves every layer invariant within a tolerance.

    Each element g satisfies |D(g) theta - theta| < tolerance |theta| in every layer.

    The search covers the subgroups of m-3m and 6/mmm along the Cartesian axes, in the given
    orientation and along the axes of the tensors (vectors, and principal axes of degree 2), the
    elements of `group`, and groups about one axis.

    Args:
        layers: nonzero components of each layer; 0e is ignored.
        tolerance: relative tolerance.
        group: (n, 3, 3) additional elements to try.
        orientation: (3, 3) additional axes to try, as columns.
    """
    layers = [[part for part in parts if not part.is_scalar] for parts in layers]
    parts = [part for parts in layers for part in parts]
    if not parts:
        return Stabilizer(schoenflies="O(3)")
    if all(part.degree == 0 for part in parts):
        return Stabilizer(schoenflies="SO(3)")
    own, given = invariant_axes(parts), [np.eye(3)]
    if orientation is not None:
        # the inversion turns no group
        given.append(orientation * np.sign(np.linalg.det(orientation)))
    for axis in [*own, *(column for frame in given for column in frame.T)]:
        name = _axial(layers, axis, tolerance)
        if name is not None:
            return Stabilizer(schoenflies=name, axis=axis)
    kept = [] if group is None else [_kept(group, changes(layers, group), tolerance)]
    frames = [*given, *_frames(own), *_upright_frames(layers, own, tolerance)]
    for frame, seen in zip(frames, _seen_from(np.array(frames), layers), strict=True):
        for name in PARENTS:
            kept.append(
                rotated_group(
                    _kept(point_group(name), _changes(seen, partial(_parent, name)), tolerance),
                    frame,
                )
            )
    matrices = max(kept, key=len)
    found = identify_point_group(matrices)
    return Stabilizer(
        schoenflies=found.schoenflies, hermann_mauguin=found.hermann_mauguin, matrices=matrices
    )


def invariant_axes(parts: Iterable[Part]) -> list[np.ndarray]:
    """Collect the axes (3,) of vectors and degree-2 tensors, longest first, without duplicates."""
    found: list[np.ndarray] = []
    for part in sorted(parts, key=lambda part: -part.length):
        for axis in _axes(part):
            if len(found) < MOST and all(
                np.linalg.norm(np.cross(axis, other)) > SAME for other in found
            ):
                found.append(axis)
    return found


def changes(layers: Sequence[Sequence[Part]], matrices: np.ndarray) -> np.ndarray:
    """Compute the largest relative change of a layer by each matrix, (n,).

    Args:
        layers: nonzero components of each layer.
        matrices: (n, 3, 3).
    """
    signs = np.sign(np.linalg.det(matrices))
    proper = {
        degree: wigner_matrix(degree, 1, matrices)
        for degree in {part.degree for parts in layers for part in parts}
    }
    return _changes(
        layers,
        lambda degree, parity: np.where(signs < 0, parity, 1)[:, None, None] * proper[degree],
    )


def _changes(
    layers: Sequence[Sequence[Part]], turns: Callable[[int, int], np.ndarray]
) -> np.ndarray:
    """Compute the same as `changes` from the representation matrices of each irrep."""
    kinds = {(part.degree, part.parity) for parts in layers for part in parts}
    known = {kind: turns(*kind) for kind in kinds}
    worst = np.zeros(1)
    for parts in layers:
        away = [known[part.degree, part.parity] @ part.values - part.values for part in parts]
        if parts:
            squared = sum((one**2).sum(axis=1) for one in away) / sum(
                part.length**2 for part in parts
            )
            worst = np.maximum(worst, np.sqrt(squared))
    return worst


def _kept(parent: np.ndarray, error: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the elements of a group that change the layers by less than the tolerance.

    Elements with the largest changes are dropped until the rest is closed.
    """
    order = np.argsort(error, kind="stable")
    number = int((error < tolerance).sum())
    while not is_closed(parent[order[:number]]):
        number -= 1
    return parent[order[:number]]


def _seen_from(frames: np.ndarray, layers: Sequence[Sequence[Part]]) -> list[list[list[Part]]]:
    """Express the tensors in each set of right-handed axes (n, 3, 3), given as columns."""
    degrees = {part.degree for parts in layers for part in parts}
    back = {degree: wigner_matrix(degree, 1, frames.transpose(0, 2, 1)) for degree in degrees}
    return [
        [[p.turned(back[p.degree][k]) for p in parts] for parts in layers]
        for k in range(len(frames))
    ]


@lru_cache(maxsize=64)
def _parent(name: str, degree: int, parity: int) -> np.ndarray:
    """Compute the representation matrices of an irrep for the elements of a crystal class."""
    return wigner_matrix(degree, parity, point_group(name))


@lru_cache(maxsize=64)
def _upright(degree: int, parity: int) -> np.ndarray:
    """Compute representation matrices of vertical mirrors and horizontal half-turns."""
    across = _around(np.linspace(0, np.pi, AZIMUTHS, endpoint=False))
    return wigner_matrix(degree, parity, np.concatenate((_mirrors(across), -_mirrors(across))))


def _around(angles: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, 3) in the xy plane."""
    return np.stack((np.cos(angles), np.sin(angles), np.zeros_like(angles)), axis=-1)


def _mirrors(normals: np.ndarray) -> np.ndarray:
    """Return reflections (n, 3, 3) along unit vectors (n, 3)."""
    mirrors: np.ndarray = np.eye(3) - 2 * normals[:, :, None] * normals[:, None, :]
    return mirrors


def _upright_frames(
    layers: Sequence[Sequence[Part]], axes: Sequence[np.ndarray], tolerance: float
) -> list[np.ndarray]:
    """Find axes (3, 3), as columns, from mirrors and half-turns about given axes.

    z is one of the given axes, x the normal of the mirror or the axis of the half-turn.
    """
    frames, highest = [], max(part.degree for parts in layers for part in parts)
    starts = np.array([_frame(axis, np.eye(3)[np.abs(axis).argmin()]) for axis in axes]).reshape(
        -1, 3, 3
    )
    for frame, seen in zip(starts, _seen_from(starts, layers), strict=True):
        coarse, width = _changes(seen, _upright), np.pi / AZIMUTHS
        best, error = int(coarse.argmin()), float(coarse.min())
        if error > tolerance + width * highest:
            continue
        angle, sign = best % AZIMUTHS * width, (1.0 if best < AZIMUTHS else -1.0)
        for _ in range(ROUNDS):
            angles = angle + np.linspace(-width, width, FINE)
            change = changes(seen, sign * _mirrors(_around(angles)))
            angle, error, width = angles[change.argmin()], float(change.min()), width * 4 / FINE
        if error < tolerance:
            frames.append(_frame(frame[:, 2], frame @ _around(np.array(angle))))
    return frames


def _axial(layers: Sequence[Sequence[Part]], axis: np.ndarray, tolerance: float) -> str | None:
    """Name the group about an axis if every rotation about it leaves the layers invariant."""
    across = _frame(axis, np.eye(3)[np.abs(axis).argmin()])[:, 0]
    along, level = _mirrors(np.stack((across, axis)))
    flip = -along
    turns = Rotation.from_rotvec([angle * axis for angle in ANGLES]).as_matrix()
    kept = changes(layers, np.concatenate((turns, [along, level, flip]))) < tolerance
    if not kept[: len(ANGLES)].all():
        return None
    upright, horizontal, flipped = kept[len(ANGLES) :]
    if flipped:
        return "D∞h" if upright and horizontal else "D∞"
    return "C∞v" if upright else "C∞h" if horizontal else "C∞"


def _axes(part: Part) -> list[np.ndarray]:
    """Return the direction of a vector or the principal axes of a degree-2 tensor."""
    if part.degree == 1:
        return [part.values / part.length]
    if part.degree == 2:
        values, vectors = np.linalg.eigh(quadrupole_matrix(part.values))
        return [vectors[:, k] for k in np.argsort(-np.abs(values), kind="stable")]
    return []


def _frames(axes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return axes (3, 3), as columns, with z along one direction and x toward another."""
    return [_frame(z, x) for z in axes for x in axes if np.linalg.norm(np.cross(z, x)) > SAME]


def _frame(axis: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Return right-handed axes (3, 3), as columns: z along a unit vector, x toward another."""
    x = towards - (towards @ axis) * axis
    x = x / np.linalg.norm(x)
    return np.stack((x, np.cross(axis, x), axis), axis=1)
