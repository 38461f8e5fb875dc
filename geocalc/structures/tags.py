"""Tags: tell OC20's convention from that of ASE's slab builders, and convert.

OC20 means 0 = below the surface, 1 = surface, 2 = adsorbate. ASE's builders number the layers of a
slab 1, 2, 3... from the top and leave the adsorbate at 0. A small slab uses the same numbers in
both, so the geometry decides: in OC20 tag 2 lies on top along the surface normal, in ASE tag 0
does. Composition and constraints must not contradict it; where they do, the tags are refused rather
than guessed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from geocalc.core.elements import covalent_radii
from geocalc.core.systems import free_atoms
from geocalc.errors import InputError

SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2
ADSORBATE_ELEMENTS = np.array([1, 6, 7, 8, 9, 15, 16, 17, 34, 35, 53])  # H C N O F P S Cl Se Br I
# Angstrom; metal atoms this close to the highest one form the top layer (closest in fcc(110): 1.3)
LAYER_DEPTH = 1.0
ABOVE = 0.3  # Angstrom; an atom this much above all atoms of tag 1 is not below the surface
# Angstrom of empty space, beyond the atoms on both sides of it, that ends a slab or a molecule
MIN_VACUUM = 2.5
SHOWN = 3  # kinds of conversion that a warning tells
ATOM_SIZE = 1.2  # covalent radii that count as atom where empty space is measured

_REMEDY = "set them with atoms.set_tags (0 below the surface, 1 surface, 2 adsorbate)"


class TagsConverted(UserWarning):
    """Tags came in another convention, or not at all, and were converted to OC20's."""


class Conversions:
    """What was done to the tags of many structures, gathered for one warning."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, int]] = {}  # by note: the first structure, and how many

    def add(self, name: str, note: str) -> None:
        """The tags of a structure were converted as the note says."""
        first, count = self._found.get(note, (name, 0))
        self._found[note] = (first, count + 1)

    def warn(self, stacklevel: int) -> None:
        """One warning for all of them, if there are any; `stacklevel` counts from the caller, as
        that of `warnings.warn`.
        """
        if not self._found:
            return
        lines = [
            f"{name}{f' and {count - 1} more' if count > 1 else ''}: {note}"
            for note, (name, count) in self._found.items()
        ]
        more = f"; and {len(lines) - SHOWN} other kinds of conversion" if lines[SHOWN:] else ""
        warnings.warn("; ".join(lines[:SHOWN]) + more, TagsConverted, stacklevel=stacklevel + 1)


@dataclass(frozen=True, kw_only=True)
class TagReading:
    """Tags in the OC20 convention.

    Attributes:
        tags: (n_atoms,) int64.
        note: what was done to the given tags, as half a sentence; None where they were used as they
            are.
    """

    tags: np.ndarray
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What surrounds a structure: `heights` (n_atoms,) in Angstrom along the surface normal, None
    unless it is a slab.
    """

    isolated: bool
    heights: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class _Slab:
    """A slab as the rules below look at it; all arrays are (n_atoms,)."""

    heights: np.ndarray
    light: np.ndarray
    fixed: np.ndarray

    def looks_adsorbed(self, group: np.ndarray) -> bool:
        """Whether `group` holds only free atoms of elements that adsorbates are made of."""
        return bool(group.any() and self.light[group].all() and not self.fixed[group].any())

    def height(self, group: np.ndarray) -> float:
        """Mean height of `group`, NaN where it is empty."""
        return float(self.heights[group].mean()) if group.any() else float("nan")


class AtomsLike(Protocol):
    """The part of `ase.Atoms` that is read here."""

    numbers: np.ndarray
    positions: np.ndarray
    cell: Any
    pbc: np.ndarray
    arrays: dict[str, np.ndarray]


def tags_of(atoms: AtomsLike, fixed: np.ndarray) -> TagReading:
    """`read_tags` for an `ase.Atoms`; `fixed` (n_atoms, 3) bool marks the Cartesian components that
    may not move.
    """
    return read_tags(
        atoms.numbers,
        atoms.positions,
        np.asarray(atoms.cell),
        atoms.pbc,
        atoms.arrays.get("tags"),
        fixed,
    )


def read_tags(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    tags: np.ndarray | None,
    fixed: np.ndarray,
) -> TagReading:
    """Tags of one structure in the OC20 convention, whatever convention they came in.

    Molecules, periodic box or not, are adsorbates throughout; bulk crystals without tags are below
    the surface throughout. Missing or all-zero tags of a slab are rebuilt: fixed slab atoms 0, free
    ones 1 (where none or all are fixed: the top layer 1, the rest 0), light atoms above the top
    metal layer 2.

    Args:
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) Angstrom, wrapped or not.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
        tags: (n_atoms,) as given, or None.
        fixed: (n_atoms, 3) bool, True where a Cartesian component may not move.
    Returns:
        TagReading; its note is None where nothing was converted.
    Raises:
        InputError: the tags fit neither convention, or fit both, or cannot be rebuilt.
    """
    found = np.zeros(len(numbers), dtype=np.int64) if tags is None else np.asarray(tags)
    whole = found.dtype.kind in "biuf" and bool(
        ((found >= 0) & (found == np.floor(found)) & np.isfinite(found)).all()
    )
    if found.shape != (len(numbers),) or not whole:
        raise InputError(
            f"tags must be one non-negative integer per atom, got {found.tolist()}; {_REMEDY}"
        )
    given = found.astype(np.int64)
    present = set(np.unique(given).tolist())
    shape = _shape(numbers, positions, np.asarray(cell, dtype=float), np.asarray(pbc, dtype=bool))
    light = np.isin(numbers, ADSORBATE_ELEMENTS)
    if shape.isolated:
        return _molecule(given, present, light)
    if shape.heights is None:
        return _bulk(given, present, light)
    slab = _Slab(heights=shape.heights, light=light, fixed=~free_atoms(fixed))
    if present == {0}:
        return _rebuild(slab)
    if max(present) > ADSORBATE:
        return _from_layers(slab, given)
    return _small(slab, given, present)


def _molecule(given: np.ndarray, present: set[int], light: np.ndarray) -> TagReading:
    adsorbate = np.full(len(given), ADSORBATE)
    if present <= {0} or present == {ADSORBATE}:
        return TagReading(tags=adsorbate)
    if light.all() or len(given) == 1:
        return TagReading(
            tags=adsorbate,
            note=f"the atoms of a free molecule had tags {sorted(present)}, all are now 2",
        )
    if present <= {0, 1, 2} and ADSORBATE in present:
        return TagReading(tags=given)
    raise InputError(
        f"tags {sorted(present)} of a cluster without a periodic surface cannot be checked against"
        f" its geometry; {_REMEDY}"
    )


def _bulk(given: np.ndarray, present: set[int], light: np.ndarray) -> TagReading:
    zero, two = given == 0, given == ADSORBATE
    reversed_ = zero.any() and light[zero].all() and two.any() and not light[two].any()
    if max(present) > ADSORBATE or reversed_:
        raise InputError(
            f"tags {sorted(present)} look like layer numbers, but the cell has no vacuum that would"
            f" tell which side is up; {_REMEDY}"
        )
    return TagReading(tags=given)


def _rebuild(slab: _Slab) -> TagReading:
    """Tags of a slab that has none."""
    metal = ~slab.light
    if not metal.any():
        raise InputError(
            "tags are missing and there is no metal atom that would tell slab from adsorbate;"
            f" {_REMEDY}"
        )
    top = slab.heights[metal].max() - LAYER_DEPTH
    inside = slab.light & ((slab.heights < top) | slab.fixed)
    if inside.any():
        atom = int(np.flatnonzero(inside)[0])
        raise InputError(
            f"tags are missing and light atoms (first: atom {atom}) lie inside the slab or are"
            f" fixed, so slab and adsorbate cannot be told apart; {_REMEDY}"
        )
    tags, how = _split(metal, slab.fixed, metal & (slab.heights >= top))
    return TagReading(
        tags=tags, note=f"tags were missing or all zero and were rebuilt: {_counts(tags, how)}"
    )


def _from_layers(slab: _Slab, given: np.ndarray) -> TagReading:
    """Convert layer numbers of ASE's builders; the adsorbate is 0."""
    layers = [slab.height(given == value) for value in np.unique(given[given > 0])]
    adsorbate = given == 0
    top = given == given[given > 0].min()
    if (np.diff(layers) >= 0).any() or (slab.heights[adsorbate] < slab.height(top)).any():
        raise InputError(
            f"tags {np.unique(given).tolist()} are neither OC20's nor layers counted from the top"
            f" as ASE's builders do; {_REMEDY}"
        )
    tags, how = _split(~adsorbate, slab.fixed, top)
    note = (
        "tags counted layers as ASE's builders do (1 on top, adsorbate 0) and were converted:"
        f" {_counts(tags, how)}"
    )
    return TagReading(tags=tags, note=note)


def _split(slab_atoms: np.ndarray, fixed: np.ndarray, top: np.ndarray) -> tuple[np.ndarray, str]:
    """OC20 tags from what belongs to the slab, and how surface was told from subsurface."""
    held = fixed[slab_atoms]
    by_constraint = held.any() and not held.all()
    surface = slab_atoms & ~fixed if by_constraint else top
    tags = np.where(slab_atoms, np.where(surface, SURFACE, SUBSURFACE), ADSORBATE)
    return tags, "the free slab atoms" if by_constraint else "the top layer"


def _counts(tags: np.ndarray, how: str) -> str:
    below, surface, adsorbate = (
        int((tags == value).sum()) for value in (SUBSURFACE, SURFACE, ADSORBATE)
    )
    return (
        f"{below} atoms 0 (below the surface), {surface} atoms 1 (surface: {how}), {adsorbate}"
        " atoms 2 (adsorbate)"
    )


def _small(slab: _Slab, given: np.ndarray, present: set[int]) -> TagReading:
    """Tags that use only 0, 1 and 2, on a slab: either convention."""
    zero, one, two = (given == value for value in (SUBSURFACE, SURFACE, ADSORBATE))
    if present == {0, 1}:
        return _zero_and_one(slab, given, zero, one)
    if present == {1, 2}:
        kept = slab.height(two) > slab.height(one) or (
            slab.looks_adsorbed(two) and not slab.looks_adsorbed(one)
        )
        return TagReading(tags=given) if kept else _from_layers(slab, given)
    if len(present) == 1:
        return TagReading(tags=given)
    layered = 1 in present and slab.height(zero) > slab.height(one) > slab.height(two)
    on_top = slab.height(two) > slab.height(zero)
    like_oc20 = slab.looks_adsorbed(two) and not slab.looks_adsorbed(zero)
    like_ase = slab.looks_adsorbed(zero) and not slab.looks_adsorbed(two)
    if like_oc20 and (not layered or slab.fixed[zero].any()):
        return TagReading(tags=given)
    if layered and not like_oc20:
        return _from_layers(slab, given)
    if on_top and not like_ase:
        return TagReading(tags=given)
    raise InputError(
        f"tags {sorted(present)} fit neither OC20 (2 = adsorbate, on top) nor ASE's layers (1 on"
        f" top, adsorbate 0): mean heights along the surface normal are {slab.height(zero):.2f} Å"
        f" for tag 0 and {slab.height(two):.2f} Å for tag 2; {_REMEDY}"
    )


def _zero_and_one(slab: _Slab, given: np.ndarray, zero: np.ndarray, one: np.ndarray) -> TagReading:
    """A clean slab in OC20's convention, or an adsorbate that was left at 0 on a slab of tag 1."""
    surface = slab.heights[one].max()
    stray = zero & ~slab.fixed & (slab.heights > surface + ABOVE)
    if slab.looks_adsorbed(zero) and slab.height(zero) > slab.height(one):
        stray = zero
    if not stray.any():
        return TagReading(tags=given)
    if not slab.light[stray].all():
        atom = int(np.flatnonzero(stray & ~slab.light)[0])
        raise InputError(
            f"atom {atom} has tag 0 (below the surface) but lies above all atoms of tag 1;"
            f" {_REMEDY}"
        )
    tags = np.where(stray, ADSORBATE, given)
    return TagReading(
        tags=tags,
        note=(
            f"{int(stray.sum())} adsorbate atoms above the surface had tag 0, as ASE leaves it;"
            " they are now 2"
        ),
    )


def _shape(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> _Shape:
    """Whether a structure is isolated, extended, or a slab with a surface normal."""
    if not pbc.any():
        return _Shape(isolated=True, heights=None)
    if pbc.sum() == 1:
        return _Shape(isolated=False, heights=None)
    cell, up = _with_normal(cell, pbc)
    if abs(np.linalg.det(cell)) < 1e-9:
        return _Shape(isolated=False, heights=None)
    inverse = np.linalg.inv(cell)
    spacing = 1 / np.linalg.norm(inverse, axis=0)
    fractional = positions @ inverse
    sizes = ATOM_SIZE * covalent_radii()[numbers]
    gaps = [
        _widest_gap(fractional[:, k] * spacing[k], spacing[k], sizes) if pbc[k] else (np.inf, 0.0)
        for k in range(3)
    ]
    widths = np.array([width for width, _ in gaps])
    if (widths > MIN_VACUUM).all():
        return _Shape(isolated=True, heights=None)
    axis = int(widths.argmax())
    if widths[axis] <= MIN_VACUUM:
        return _Shape(isolated=False, heights=None)
    heights = fractional[:, axis] * spacing[axis]
    if not pbc[axis]:
        return _Shape(isolated=False, heights=up * heights)
    return _Shape(isolated=False, heights=np.mod(heights - gaps[axis][1], spacing[axis]))


def _with_normal(cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, float]:
    """Replace the one open lattice vector by the unit normal of the others; the sign says which way
    the given one points.
    """
    if pbc.all():
        return cell, 1.0
    axis = int(np.flatnonzero(~pbc)[0])
    normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
    normal = normal / max(float(np.linalg.norm(normal)), 1e-12)
    replaced = cell.copy()
    replaced[axis] = normal
    return replaced, -1.0 if cell[axis] @ normal < 0 else 1.0


def _widest_gap(heights: np.ndarray, period: float, sizes: np.ndarray) -> tuple[float, float]:
    """Width of the widest empty interval between atoms of these sizes along a periodic direction,
    and its middle.
    """
    wrapped = np.mod(heights, period)
    order = np.argsort(wrapped)
    low, high = wrapped[order], wrapped[np.roll(order, -1)]
    high[-1] += period
    widths = high - low - sizes[order] - sizes[np.roll(order, -1)]
    k = int(widths.argmax())
    return float(widths[k]), float(low[k] + high[k]) / 2
