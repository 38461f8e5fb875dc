"""Tags: recognition of the OC20 convention and of ASE's layer numbers, and conversion to OC20.

OC20 tags are 0 = below the surface, 1 = surface, 2 = adsorbate. The slab builders of ASE number the
layers 1, 2, 3... from the top and leave adsorbates at 0. A small slab has the same numbers in both,
so the convention is inferred from the geometry: along the surface normal the highest atoms have tag
2 in OC20 and tag 0 in ASE. Composition and constraints must be consistent with this; otherwise an
error is raised.
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
# Angstrom; metal atoms this close to the highest one form the top layer (fcc(110) layers: 1.3)
LAYER_DEPTH = 1.0
ABOVE = 0.3  # Angstrom; an atom higher than this above all atoms of tag 1 is above the surface
# Angstrom; smallest width of the vacuum, measured between the surfaces of atoms
MIN_VACUUM = 2.5
MAX_KINDS = 3  # largest number of different conversions in a warning
ATOM_SIZE = 1.2  # radius of an atom in covalent radii, for measuring the vacuum

_REMEDY = "set them with atoms.set_tags (0 below the surface, 1 surface, 2 adsorbate)"


class TagsConverted(UserWarning):
    """Warning about tags that were missing or in another convention and were converted to OC20."""


class Conversions:
    """Collection of the tag conversions of many structures, for one warning."""

    def __init__(self) -> None:
        # name of the first structure and number of structures by note
        self._found: dict[str, tuple[str, int]] = {}

    def add(self, name: str, note: str) -> None:
        """Record a conversion.

        Args:
            name: name of the structure.
            note: description of the conversion, as in `TagReading`.
        """
        first, count = self._found.get(note, (name, 0))
        self._found[note] = (first, count + 1)

    def warn(self, stacklevel: int) -> None:
        """Issue one warning about all conversions, if any.

        Args:
            stacklevel: as in `warnings.warn`, counted from the caller.
        """
        if not self._found:
            return
        lines = [
            f"{name}{f' and {count - 1} more' if count > 1 else ''}: {note}"
            for note, (name, count) in self._found.items()
        ]
        n_more = len(lines) - MAX_KINDS
        more = f"; and {n_more} other kinds of conversion" if n_more > 0 else ""
        warnings.warn("; ".join(lines[:MAX_KINDS]) + more, TagsConverted, stacklevel=stacklevel + 1)


@dataclass(frozen=True, kw_only=True)
class TagReading:
    """Tags in the OC20 convention.

    Attributes:
        tags: (n_atoms,) int64.
        note: description of the conversion as part of a sentence; None for unchanged tags.
    """

    tags: np.ndarray
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """Extent of a structure.

    Attributes:
        isolated: whether it is a molecule or cluster in vacuum.
        heights: (n_atoms,) Angstrom along the surface normal, None unless it is a slab.
    """

    isolated: bool
    heights: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class _Slab:
    """Properties of a slab that the rules depend on.

    Attributes:
        heights: (n_atoms,) Angstrom along the surface normal.
        light: (n_atoms,) bool, True for elements of adsorbates.
        fixed: (n_atoms,) bool, True for atoms that may not move.
    """

    heights: np.ndarray
    light: np.ndarray
    fixed: np.ndarray

    def looks_adsorbed(self, group: np.ndarray) -> bool:
        """Whether `group` is a nonempty set of free atoms of adsorbate elements."""
        return bool(group.any() and self.light[group].all() and not self.fixed[group].any())

    def height(self, group: np.ndarray) -> float:
        """Return the mean height of `group` in Angstrom, NaN if it is empty."""
        return float(self.heights[group].mean()) if group.any() else float("nan")


class AtomsLike(Protocol):
    """The attributes of `ase.Atoms` that are used here."""

    numbers: np.ndarray
    positions: np.ndarray
    cell: Any
    pbc: np.ndarray
    arrays: dict[str, np.ndarray]


def tags_of(atoms: AtomsLike, fixed: np.ndarray) -> TagReading:
    """Call `read_tags` for an `ase.Atoms`.

    Args:
        atoms: the structure.
        fixed: (n_atoms, 3) bool, True for Cartesian components that may not move.
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
    """Return the tags of one structure in the OC20 convention.

    All atoms of a molecule, in a periodic box or not, are adsorbate. All atoms of a bulk crystal
    without tags are below the surface. Missing or all-zero tags of a slab are rebuilt: fixed slab
    atoms get 0 and free ones 1 (if none or all are fixed: the top layer 1 and the others 0), light
    atoms above the top metal layer get 2.

    Args:
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) Angstrom, wrapped or not.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
        tags: (n_atoms,) tags in any convention, or None.
        fixed: (n_atoms, 3) bool, True for Cartesian components that may not move.
    Returns:
        TagReading; its note is None for unchanged tags.
    Raises:
        InputError: the tags match neither convention, or both, or cannot be rebuilt.
    """
    found = np.zeros(len(numbers), dtype=np.int64) if tags is None else np.asarray(tags)
    integral = found.dtype.kind in "biuf" and bool(
        ((found >= 0) & (found == np.floor(found)) & np.isfinite(found)).all()
    )
    if found.shape != (len(numbers),) or not integral:
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
    """Read the tags of a molecule or cluster."""
    adsorbate = np.full(len(given), ADSORBATE)
    if present <= {0} or present == {ADSORBATE}:
        return TagReading(tags=adsorbate)
    if light.all() or len(given) == 1:
        return TagReading(
            tags=adsorbate,
            note=f"the atoms of a molecule had tags {sorted(present)} and all were set to 2",
        )
    if present <= {0, 1, 2} and ADSORBATE in present:
        return TagReading(tags=given)
    raise InputError(
        f"tags {sorted(present)} of a cluster without a periodic surface cannot be verified by its"
        f" geometry; {_REMEDY}"
    )


def _bulk(given: np.ndarray, present: set[int], light: np.ndarray) -> TagReading:
    """Read the tags of a bulk crystal."""
    zero, two = given == 0, given == ADSORBATE
    reversed_ = zero.any() and light[zero].all() and two.any() and not light[two].any()
    if max(present) > ADSORBATE or reversed_:
        raise InputError(
            f"tags {sorted(present)} look like layer numbers, but the cell has no vacuum that"
            f" defines the upper side; {_REMEDY}"
        )
    return TagReading(tags=given)


def _rebuild(slab: _Slab) -> TagReading:
    """Rebuild the tags of a slab without tags."""
    metal = ~slab.light
    if not metal.any():
        raise InputError(
            "tags are missing and there is no metal atom to distinguish the slab from the"
            f" adsorbate; {_REMEDY}"
        )
    top = slab.heights[metal].max() - LAYER_DEPTH
    inside = slab.light & ((slab.heights < top) | slab.fixed)
    if inside.any():
        atom = int(np.flatnonzero(inside)[0])
        raise InputError(
            f"tags are missing and light atoms (first: atom {atom}) are inside the slab or fixed,"
            f" so slab and adsorbate cannot be distinguished; {_REMEDY}"
        )
    tags, how = _split(metal, slab.fixed, metal & (slab.heights >= top))
    return TagReading(
        tags=tags, note=f"tags were missing or all zero and were rebuilt: {_counts(tags, how)}"
    )


def _from_layers(slab: _Slab, given: np.ndarray) -> TagReading:
    """Convert the layer numbers of ASE's builders, with the adsorbate at 0."""
    layers = [slab.height(given == value) for value in np.unique(given[given > 0])]
    adsorbate = given == 0
    top = given == given[given > 0].min()
    if (np.diff(layers) >= 0).any() or (slab.heights[adsorbate] < slab.height(top)).any():
        raise InputError(
            f"tags {np.unique(given).tolist()} are neither in the OC20 convention nor layer numbers"
            f" from the top as in ASE's builders; {_REMEDY}"
        )
    tags, how = _split(~adsorbate, slab.fixed, top)
    note = (
        "tags were layer numbers of ASE's builders (1 on top, adsorbate 0) and were converted:"
        f" {_counts(tags, how)}"
    )
    return TagReading(tags=tags, note=note)


def _split(slab_atoms: np.ndarray, fixed: np.ndarray, top: np.ndarray) -> tuple[np.ndarray, str]:
    """Return OC20 tags from the slab atoms, and the criterion for surface atoms."""
    fixed_slab = fixed[slab_atoms]
    by_constraint = fixed_slab.any() and not fixed_slab.all()
    surface = slab_atoms & ~fixed if by_constraint else top
    tags = np.where(slab_atoms, np.where(surface, SURFACE, SUBSURFACE), ADSORBATE)
    return tags, "the free slab atoms" if by_constraint else "the top layer"


def _counts(tags: np.ndarray, how: str) -> str:
    """Describe the number of atoms with each tag."""
    below, surface, adsorbate = (
        int((tags == value).sum()) for value in (SUBSURFACE, SURFACE, ADSORBATE)
    )
    return (
        f"{below} atoms 0 (below the surface), {surface} atoms 1 (surface: {how}), {adsorbate}"
        " atoms 2 (adsorbate)"
    )


def _small(slab: _Slab, given: np.ndarray, present: set[int]) -> TagReading:
    """Read the tags of a slab with only 0, 1 and 2, which may be in either convention."""
    zero, one, two = (given == value for value in (SUBSURFACE, SURFACE, ADSORBATE))
    if present == {0, 1}:
        return _zero_and_one(slab, given, zero, one)
    if present == {1, 2}:
        is_oc20 = slab.height(two) > slab.height(one) or (
            slab.looks_adsorbed(two) and not slab.looks_adsorbed(one)
        )
        return TagReading(tags=given) if is_oc20 else _from_layers(slab, given)
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
        f"tags {sorted(present)} match neither OC20 (2 = adsorbate, on top) nor ASE's layers (1 on"
        f" top, adsorbate 0): mean heights along the surface normal are {slab.height(zero):.2f} Å"
        f" for tag 0 and {slab.height(two):.2f} Å for tag 2; {_REMEDY}"
    )


def _zero_and_one(slab: _Slab, given: np.ndarray, zero: np.ndarray, one: np.ndarray) -> TagReading:
    """Read tags of 0 and 1.

    Either a clean slab in OC20's convention, or an adsorbate left at 0 on a slab of 1.
    """
    surface = slab.heights[one].max()
    adsorbed = zero & ~slab.fixed & (slab.heights > surface + ABOVE)
    if slab.looks_adsorbed(zero) and slab.height(zero) > slab.height(one):
        adsorbed = zero
    if not adsorbed.any():
        return TagReading(tags=given)
    if not slab.light[adsorbed].all():
        atom = int(np.flatnonzero(adsorbed & ~slab.light)[0])
        raise InputError(
            f"atom {atom} has tag 0 (below the surface) but lies above all atoms of tag 1;"
            f" {_REMEDY}"
        )
    tags = np.where(adsorbed, ADSORBATE, given)
    return TagReading(
        tags=tags,
        note=(
            f"{int(adsorbed.sum())} adsorbate atoms above the surface had tag 0, the default of"
            " ASE, and were set to 2"
        ),
    )


def _shape(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> _Shape:
    """Determine whether a structure is isolated, extended, or a slab with a surface normal."""
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
    """Replace the open lattice vector by the unit normal of the others.

    Returns:
        The cell (3, 3), and the sign of the given vector along the normal.
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
    """Return the width and the center of the widest gap between atoms along a periodic direction.

    Args:
        heights: (n_atoms,) Angstrom.
        period: Angstrom.
        sizes: (n_atoms,) radii in Angstrom.
    """
    wrapped = np.mod(heights, period)
    order = np.argsort(wrapped)
    low, high = wrapped[order], wrapped[np.roll(order, -1)]
    high[-1] += period
    widths = high - low - sizes[order] - sizes[np.roll(order, -1)]
    k = int(widths.argmax())
    return float(widths[k]), float(low[k] + high[k]) / 2
