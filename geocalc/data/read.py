"""Labeled files, read one relaxation at a time, validated and filtered."""

from __future__ import annotations

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms

from geocalc.core.units import EV, in_ev
from geocalc.data.checks import LEVEL_KEYS, check_one_level
from geocalc.data.settings import DataSource
from geocalc.errors import InputError
from geocalc.structures import readers
from geocalc.structures.convert import fixed_mask
from geocalc.structures.formats.rmd17 import SUFFIX as RMD17
from geocalc.structures.formats.rmd17 import UNIT as RMD17_UNIT
from geocalc.structures.labels import StoredLabels, has_zeroed_forces, read_labels
from geocalc.structures.readers import read_structures
from geocalc.structures.tags import TagsConverted, tags_of

# number of structures to check for zeroed forces; programs that zero them do so in every structure
N_CHECKED = 1000


@dataclass(frozen=True, kw_only=True)
class LabeledImage:
    """Image of a relaxation with its labels; NaN for unknown values.

    Attributes:
        atoms: the structure as read.
        tags: (n_atoms,) int64 in the OC20 convention.
        fixed: (n_atoms, 3) bool, True for components that may not move.
        energy: eV, as defined by the source.
        forces: (n_atoms, 3) eV/Angstrom, constraints not applied.
        relaxed: (n_atoms, 3) Angstrom, positions in the relaxed structure.
    """

    atoms: Atoms
    tags: np.ndarray
    fixed: np.ndarray
    energy: float
    forces: np.ndarray
    relaxed: np.ndarray


def locate(path: Path) -> Path:
    """Return the path of a source, looked up in `$GEOCALC_DATA` unless it exists as given.

    Raises:
        InputError: the path exists in neither place.
    """
    if path.exists():
        return path
    root = os.environ.get("GEOCALC_DATA")
    if root and (Path(root) / path).exists():
        return Path(root) / path
    where = (
        f"nor under GEOCALC_DATA={root}"
        if root
        else "and GEOCALC_DATA, the folder of data sets, is not set"
    )
    raise InputError(f"data file {path} was not found, {where}; check the path")


def relaxations(
    source: DataSource,
    max_jump: float | None,
    dropped: Counter[str],
    use_tags: bool = True,
    needs_forces: bool = True,
) -> Iterator[tuple[str, list[LabeledImage]]]:
    """Generate the labeled images of each relaxation, without those before an energy jump.

    The images of a relaxation are consecutive in the file and have the same value of `group_key`.
    Without that key, each file of a folder is a relaxation, or each structure of a single file.

    Args:
        source: file or folder, and its settings.
        max_jump: eV, see `after_last_jump`; None keeps all images.
        dropped: counts of excluded structures by reason, updated.
        use_tags: False for models that do not use tags: all are 0 without validation.
        needs_forces: exclude structures without forces; if False, forces are not read.
    Yields:
        Name of the relaxation, and its images in order; possibly none.
    Raises:
        InputError: the data cannot be read, contain no labels, or lack a key named by the source.
    """
    path = locate(source.path)
    reader = ImageReader(source, path, use_tags, needs_forces)
    current: str | None = None
    images: list[LabeledImage] = []
    for found in structures_of(path):
        group = relaxation_name(found, source, path)
        if group != current and current is not None:
            yield current, after_last_jump(images, max_jump, dropped)
            images = []
        current = group
        image = reader.read(found, group, dropped)
        if image is not None:
            images.append(image)
    if current is not None:
        yield current, after_last_jump(images, max_jump, dropped)
    reader.finish()


def reject_zeroed_forces(source: DataSource) -> None:
    """Raise an error if constraints had set the forces on fixed atoms of a source to zero.

    Raises:
        InputError: all forces on fixed atoms are zero; the message explains how to store raw
            forces.
    """
    path = locate(source.path)
    if has_zeroed_forces(_checked(path, source), source.energy_key, source.forces_key):
        raise InputError(
            f"{path}: the forces on fixed atoms are exactly zero in every structure, so constraints"
            " were applied before they were stored, and a network would learn the zeros; store"
            " atoms.get_forces(apply_constraint=False), or exclude fixed atoms from the training"
            " with training.fixed_force_weight: 0"
        )


def after_last_jump(
    images: list[LabeledImage], max_jump: float | None, dropped: Counter[str]
) -> list[LabeledImage]:
    """Return the images after the last energy jump.

    A jump is a difference of more than `max_jump` eV between the energy change and the work -F.dx,
    with the mean force of the two images.
    """
    if max_jump is None:
        return images
    start = 0
    for k in range(1, len(images)):
        before, after = images[k - 1], images[k]
        step = after.atoms.positions - before.atoms.positions
        work = -0.5 * float(np.sum((before.forces + after.forces) * step))
        if abs(after.energy - before.energy - work) > max_jump:
            start = k
    dropped["before an energy jump"] += start
    return images[start:]


class ImageReader:
    """Reader that converts the structures of one source to labeled images.

    Args:
        source: settings of the source.
        path: file or folder.
        use_tags: as in `relaxations`.
        needs_forces: as in `relaxations`.
    """

    def __init__(
        self, source: DataSource, path: Path, use_tags: bool, needs_forces: bool = True
    ) -> None:
        self._source, self._path, self._use_tags, self._needs_forces = (
            source,
            path,
            use_tags,
            needs_forces,
        )
        self._n_read = self._n_labeled = 0
        self._first: tuple[str, Atoms, np.ndarray] | None = None
        self._notes: Counter[str] = Counter()
        self._levels: list[str] = []

    def read(
        self,
        found: readers.Source,
        group: str,
        dropped: Counter[str],
        labeled_by: readers.Source | None = None,
    ) -> LabeledImage | None:
        """Convert a structure to a labeled image.

        Args:
            found: the structure.
            group: name of its relaxation.
            dropped: counts of excluded structures by reason, updated.
            labeled_by: structure with the labels, by default `found`.
        Returns:
            The image, or None if it is excluded.
        """
        source, atoms = self._source, found.atoms
        self._n_read += 1
        stored = _labels(labeled_by or found, source)
        if stored.energy is None or (self._needs_forces and stored.forces is None):
            dropped["no energy or forces" if self._needs_forces else "no energy"] += 1
            return None
        self._n_labeled += 1
        self._levels += [str(atoms.info[key]) for key in LEVEL_KEYS if key in atoms.info][:1]
        reason = _exclusion_reason(atoms, source)
        if reason:
            dropped[reason] += 1
            return None
        fixed = _fixed(found)
        try:
            _check_geometry(atoms)
            tags = (
                self._tags(group, atoms, fixed)
                if self._use_tags
                else np.zeros(len(atoms), dtype=np.int64)
            )
        except InputError as error:
            raise InputError(f"{location_of(found)}: {error}") from None
        unknown = np.full((len(atoms), 3), np.nan)
        return LabeledImage(
            atoms=atoms,
            tags=tags,
            fixed=fixed,
            energy=_energy(stored.energy, found, source),
            forces=unknown if stored.forces is None or not self._needs_forces else stored.forces,
            relaxed=unknown,
        )

    def finish(self) -> None:
        """Warn about converted tags, and check that there were labels of one level of theory.

        Raises:
            InputError: no structure had labels, or their levels of theory differ.
        """
        if not self._n_labeled:
            source = self._source
            if not self._needs_forces:
                kind = "structures" if source.relaxed is None else "relaxed structures"
                raise InputError(
                    f"none of the {self._n_read} {kind} of {self._path} has an energy, neither"
                    f" {source.energy_key} in info nor the energy of a stored calculator; add"
                    " energies, or set energy_key to the key of the file"
                )
            raise InputError(
                f"none of the {self._n_read} structures in {self._path} has an energy and forces,"
                f" neither {source.energy_key} in info and {source.forces_key} in arrays nor those"
                " of a stored calculator; add labels, set energy_key and forces_key to the keys of"
                " the file, or train on energies only with model.force_mode: none and"
                " training.force_weight: 0"
            )
        check_one_level(self._levels, str(self._path))
        for note, count in self._notes.items():
            warnings.warn(
                f"{self._path}: in {count} relaxations {note}", TagsConverted, stacklevel=2
            )

    def _tags(self, group: str, atoms: Atoms, fixed: np.ndarray) -> np.ndarray:
        """Return the OC20 tags of an image.

        Images of a relaxation with the same given tags have the tags of the first one.
        """
        if self._first is not None:
            name, first, known = self._first
            same = name == group and np.array_equal(first.numbers, atoms.numbers)
            if same and np.array_equal(first.get_tags(), atoms.get_tags()):
                return known
        reading = tags_of(atoms, fixed)
        if reading.note is not None:
            self._notes[reading.note] += 1
        self._first = (group, atoms, reading.tags)
        return reading.tags


def structures_of(path: Path) -> Iterator[readers.Source]:
    """Generate the structures of a file or folder, in order."""
    return (found for found in read_structures(path) if isinstance(found, readers.Source))


def _checked(path: Path, source: DataSource) -> Iterator[Atoms]:
    """Generate the first structures of a file; errors in labels or constraints name them."""
    for found in itertools.islice(structures_of(path), N_CHECKED):
        _labels(found, source)
        _fixed(found)
        yield found.atoms


def _fixed(found: readers.Source) -> np.ndarray:
    """Return the fixed components, with the location of the structure in an error message."""
    try:
        return fixed_mask(found.atoms)
    except InputError as error:
        raise InputError(f"{location_of(found)}: {error}") from None


def relaxation_name(found: readers.Source, source: DataSource, path: Path) -> str:
    """Return the name of the relaxation that a structure belongs to."""
    value = found.atoms.info.get(source.group_key)
    if value is not None:
        return str(value)
    return f"{source.path}/{found.path.name}" if path.is_dir() else f"{source.path}#{found.index}"


def _labels(found: readers.Source, source: DataSource) -> StoredLabels:
    """Return the labels in eV and eV/Angstrom."""
    try:
        stored = read_labels(found.atoms, source.energy_key, source.forces_key)
    except InputError as error:
        raise InputError(f"{location_of(found)}: {error}") from None
    if source.energy_unit == EV:
        return stored
    if found.path.suffix.lower() == RMD17:
        raise InputError(
            f"{found.path} is an rMD17 file, whose unit {RMD17_UNIT} is converted automatically;"
            " remove data.sources.energy_unit"
        )
    unit = in_ev(source.energy_unit)
    return replace(
        stored,
        energy=None if stored.energy is None else stored.energy * unit,
        forces=None if stored.forces is None else stored.forces * unit,
    )


def location_of(found: readers.Source) -> str:
    """Return the location of a structure for messages."""
    return f"structure {found.index} of {found.path}"


def _exclusion_reason(atoms: Atoms, source: DataSource) -> str | None:
    """Return why a structure is excluded by the settings of the source, or None."""
    if any(bool(atoms.info.get(flag)) is not value for flag, value in source.require.items()):
        return f"not {', '.join(source.require)}"
    key = source.exclude_key
    if key is not None and str(atoms.info.get(key)) in source.exclude_groups:
        return f"excluded by {key}"
    if not set(source.exclude_elements).isdisjoint(atoms.symbols):
        return "excluded by element"
    return None


def _check_geometry(atoms: Atoms) -> None:
    """Raise an error for a structure without a neighbor list.

    Overlapping atoms are not checked here, because the filter of large forces excludes them.
    """
    cell = np.asarray(atoms.cell)
    if not len(atoms):
        raise InputError("it has no atoms; remove it from the file")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(cell).all()):
        raise InputError(
            "a position or the cell is NaN or infinite; remove the structure or correct the file"
        )
    if (atoms.pbc & (np.abs(cell).max(axis=1) < 1e-6)).any():
        raise InputError("pbc is on along a lattice vector of zero; set the cell, or pbc=False")


def _energy(stored: float, found: readers.Source, source: DataSource) -> float:
    """Return the training energy in eV, with the energies that the source adds and subtracts."""
    energy = stored
    for name, key, sign in (
        ("add_energy", source.add_energy, 1.0),
        ("subtract_energy", source.subtract_energy, -1.0),
    ):
        if key is None:
            continue
        value = found.atoms.info.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float, np.number))
            or not np.isfinite(value)
        ):
            given = "no such key" if value is None else repr(value)
            raise InputError(
                f"{location_of(found)}: {name} refers to the info key {key!r}, which must contain"
                f" an energy in {source.energy_unit}; got {given}"
            )
        energy += sign * float(value) * in_ev(source.energy_unit)
    return energy
