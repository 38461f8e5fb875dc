"""Labeled files, one relaxation after the other: read, checked and filtered."""

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
from geocalc.data.checks import LEVELS, check_levels
from geocalc.data.settings import Source
from geocalc.errors import InputError
from geocalc.structures import readers
from geocalc.structures.convert import fixed_mask
from geocalc.structures.formats.rmd17 import SUFFIX as RMD17
from geocalc.structures.formats.rmd17 import UNIT as RMD17_UNIT
from geocalc.structures.labels import StoredLabels, has_zeroed_forces, read_labels
from geocalc.structures.readers import read_structures
from geocalc.structures.tags import TagsConverted, tags_of

# frames looked at for forces that a reader set to zero; whoever did that did it to every frame
N_PROBED = 1000


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """One frame with its labels.

    Attributes:
        atoms: as read.
        tags: (n_atoms,) int64, OC20.
        fixed: (n_atoms, 3) bool.
        energy: eV, as the source defines it.
        forces: (n_atoms, 3) eV/Angstrom, raw.
        relaxed: (n_atoms, 3) Angstrom, where the atoms end. What is not known is NaN.
    """

    atoms: Atoms
    tags: np.ndarray
    fixed: np.ndarray
    energy: float
    forces: np.ndarray
    relaxed: np.ndarray


def locate(path: Path) -> Path:
    """A source's file or folder, looked up in `$GEOCALC_DATA` unless it exists as given.

    Raises:
        InputError: it is in neither place.
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
    raise InputError(f"data file {path} was not found here, {where}; check the path")


def relaxations(
    source: Source,
    max_jump: float | None,
    dropped: Counter[str],
    use_tags: bool = True,
    needs_forces: bool = True,
) -> Iterator[tuple[str, list[Labeled]]]:
    """Labeled frames of each relaxation, cut off where the energy jumps.

    Frames of a relaxation follow each other in the file and share the value of `group_key`; where
    that is missing, a file in a folder is a relaxation, and a frame of a single file is one of its
    own.

    Args:
        source: file or folder and its rules.
        max_jump: eV, see `cut`; None keeps every frame.
        dropped: counts by reason, added to.
        use_tags: False where nothing reads them: all are 0 and none is judged.
        needs_forces: leave frames without forces out; else no forces are read.
    Yields:
        Name of the relaxation, and its frames in order; there may be none left.
    Raises:
        InputError: the data cannot be read, hold no labels, or lack a key that the source names.
    """
    path = locate(source.path)
    reader = FrameReader(source, path, use_tags, needs_forces)
    current: str | None = None
    frames: list[Labeled] = []
    for found in structures_of(path):
        group = group_of(found, source, path)
        if group != current and current is not None:
            yield current, cut(frames, max_jump, dropped)
            frames = []
        current = group
        frame = reader.read(found, group, dropped)
        if frame is not None:
            frames.append(frame)
    if current is not None:
        yield current, cut(frames, max_jump, dropped)
    reader.finish()


def refuse_zeroed(source: Source) -> None:
    """Raise if the forces of a source were stored after constraints had zeroed those of fixed
    atoms.

    Raises:
        InputError: they were; the message says how to store them raw.
    """
    path = locate(source.path)
    if has_zeroed_forces(_checked(path, source), source.energy_key, source.forces_key):
        raise InputError(
            f"{path}: the forces on fixed atoms are exactly zero in every frame, so whatever wrote"
            " them applied the constraints, and a network would learn the zeros; store"
            " atoms.get_forces(apply_constraint=False), or leave fixed atoms out of the training"
            " with training.fixed_force_weight: 0"
        )


def cut(frames: list[Labeled], max_jump: float | None, dropped: Counter[str]) -> list[Labeled]:
    """The last run of frames along which the energy follows -F.dx (mean force of the two ends)
    within `max_jump` eV.
    """
    if max_jump is None:
        return frames
    start = 0
    for k in range(1, len(frames)):
        before, after = frames[k - 1], frames[k]
        step = after.atoms.positions - before.atoms.positions
        work = -0.5 * float(np.sum((before.forces + after.forces) * step))
        if abs(after.energy - before.energy - work) > max_jump:
            start = k
    dropped["before an energy jump"] += start
    return frames[start:]


class FrameReader:
    """Turns structures of one source into labeled frames, and says at the end what was found.

    Args:
        source, path: the rules and the file.
        use_tags, needs_forces: as in `relaxations`.
    """

    def __init__(
        self, source: Source, path: Path, use_tags: bool, needs_forces: bool = True
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
    ) -> Labeled | None:
        """The frame with its labels, or those of another structure; None where it is left out,
        which is counted.
        """
        source, atoms = self._source, found.atoms
        self._n_read += 1
        stored = _labels(labeled_by or found, source)
        if stored.energy is None or (self._needs_forces and stored.forces is None):
            dropped["no energy or forces" if self._needs_forces else "no energy"] += 1
            return None
        self._n_labeled += 1
        self._levels += [str(atoms.info[key]) for key in LEVELS if key in atoms.info][:1]
        reason = _reject(atoms, source)
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
            raise InputError(f"{place_of(found)}: {error}") from None
        unknown = np.full((len(atoms), 3), np.nan)
        return Labeled(
            atoms=atoms,
            tags=tags,
            fixed=fixed,
            energy=_energy(stored.energy, found, source),
            forces=unknown if stored.forces is None or not self._needs_forces else stored.forces,
            relaxed=unknown,
        )

    def finish(self) -> None:
        """Say which tags were converted.

        Raises:
            InputError: no frame had labels.
        """
        if not self._n_labeled:
            source = self._source
            if not self._needs_forces:
                kind = "structures" if source.relaxed is None else "relaxed structures"
                raise InputError(
                    f"none of the {self._n_read} {kind} of {self._path} has an energy: looked for"
                    f" {source.energy_key} in info, then for the energy of a stored calculator;"
                    " label them, or name your key with energy_key"
                )
            raise InputError(
                f"none of the {self._n_read} structures in {self._path} has an energy and forces:"
                f" looked for {source.energy_key} in info and {source.forces_key} in arrays, then"
                " for energy and forces of a stored calculator; label them, or name your keys with"
                " energy_key and forces_key, or learn energies alone: model.force_mode: none and"
                " training.force_weight: 0"
            )
        check_levels(self._levels, str(self._path))
        for note, count in self._notes.items():
            warnings.warn(
                f"{self._path}: in {count} relaxations {note}", TagsConverted, stacklevel=2
            )

    def _tags(self, group: str, atoms: Atoms, fixed: np.ndarray) -> np.ndarray:
        """OC20 tags; frames of a relaxation that came with the same tags keep the reading of the
        first.
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
    """The structures of a file or folder, in order."""
    return (found for found in read_structures(path) if isinstance(found, readers.Source))


def _checked(path: Path, source: Source) -> Iterator[Atoms]:
    """The first frames of a file; one whose labels or constraints cannot be read is named by its
    place.
    """
    for found in itertools.islice(structures_of(path), N_PROBED):
        _labels(found, source)
        _fixed(found)
        yield found.atoms


def _fixed(found: readers.Source) -> np.ndarray:
    try:
        return fixed_mask(found.atoms)
    except InputError as error:
        raise InputError(f"{place_of(found)}: {error}") from None


def group_of(found: readers.Source, source: Source, path: Path) -> str:
    """The name of the relaxation that a structure belongs to."""
    value = found.atoms.info.get(source.group_key)
    if value is not None:
        return str(value)
    return f"{source.path}/{found.path.name}" if path.is_dir() else f"{source.path}#{found.index}"


def _labels(found: readers.Source, source: Source) -> StoredLabels:
    """StoredLabels in eV and eV/Angstrom, whatever the unit of the source."""
    try:
        stored = read_labels(found.atoms, source.energy_key, source.forces_key)
    except InputError as error:
        raise InputError(f"{place_of(found)}: {error}") from None
    if source.energy_unit == EV:
        return stored
    if found.path.suffix.lower() == RMD17:
        raise InputError(
            f"{found.path} is of rMD17 and so known to be in {RMD17_UNIT}; leave"
            " data.sources.energy_unit out"
        )
    unit = in_ev(source.energy_unit)
    return replace(
        stored,
        energy=None if stored.energy is None else stored.energy * unit,
        forces=None if stored.forces is None else stored.forces * unit,
    )


def place_of(found: readers.Source) -> str:
    """Where a structure was read, for messages."""
    return f"structure {found.index} of {found.path}"


def _reject(atoms: Atoms, source: Source) -> str | None:
    if any(bool(atoms.info.get(flag)) is not wanted for flag, wanted in source.require.items()):
        return f"not {', '.join(source.require)}"
    if str(atoms.info.get(source.exclude_key)) in source.exclude_groups:
        return f"excluded by {source.exclude_key}"
    if not set(source.exclude_elements).isdisjoint(atoms.symbols):
        return "excluded by element"
    return None


def _check_geometry(atoms: Atoms) -> None:
    """Refuse what no neighbor list can use; overlapping atoms are left to the filter of large
    forces.
    """
    cell = np.asarray(atoms.cell)
    if not len(atoms):
        raise InputError("it has no atoms; remove it")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(cell).all()):
        raise InputError("a position or the cell is not a number; remove it or correct the file")
    if (atoms.pbc & (np.abs(cell).max(axis=1) < 1e-6)).any():
        raise InputError("pbc is on along a cell vector that is zero; set the cell, or pbc=False")


def _energy(stored: float, found: readers.Source, source: Source) -> float:
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
            said = "no such key" if value is None else repr(value)
            raise InputError(
                f"{place_of(found)}: {name} names the info key {key!r}, which must hold an energy"
                f" in {source.energy_unit}; got {said}"
            )
        energy += sign * float(value) * in_ev(source.energy_unit)
    return energy
