"""Pairs of an unrelaxed and a relaxed structure, read side by side from two files, or from records
that hold both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from ase.geometry import find_mic

from geocalc.data.read import FrameReader, Labeled, locate, place_of, relaxation_name, structures_of
from geocalc.data.settings import DataSource
from geocalc.errors import InputError
from geocalc.structures import readers
from geocalc.structures.formats.oc20 import relaxed_partner


def relaxed_pairs(
    source: DataSource, dropped: Counter[str], use_tags: bool = True
) -> Iterator[tuple[str, list[Labeled]]]:
    """Unrelaxed structures with the energy and the positions that they relax to.

    Positions of the relaxed structure are taken at the image next to the unrelaxed one.

    Args:
        source: with `relaxed`; where that is `path` itself, each record holds both, as OC20's do.
        dropped, use_tags: as in `geocalc.data.read.relaxations`.
    Yields:
        Name of each pair, and the one frame of it; there may be none left.
    Raises:
        InputError: the files cannot be read, differ in length or in a structure, or hold no
            energies.
    """
    if source.relaxed is None:
        raise InputError(f"{source.path} has no file of relaxed structures; name it as `relaxed`")
    start, end = locate(source.path), locate(source.relaxed)
    reader = FrameReader(source, start, use_tags, needs_forces=False)
    for before, after in _inside(start) if start.samefile(end) else _side_by_side(start, end):
        group = relaxation_name(before, source, start)
        frame = reader.read(before, group, dropped, labeled_by=after)
        yield group, [] if frame is None else [_with_end(frame, before, after)]
    reader.finish()


def _side_by_side(start: Path, end: Path) -> Iterator[tuple[readers.Source, readers.Source]]:
    """The structures of two files, one from each."""
    for before, after in zip_longest(structures_of(start), structures_of(end)):
        if before is None or after is None:
            longer, shorter = (end, start) if before is None else (start, end)
            raise InputError(
                f"{longer} holds more structures than {shorter}; unrelaxed and relaxed must come in"
                " pairs"
            )
        yield before, after


def _inside(path: Path) -> Iterator[tuple[readers.Source, readers.Source]]:
    """The structures of a file whose records hold the relaxed ones too."""
    for before in structures_of(path):
        try:
            yield before, replace(before, atoms=relaxed_partner(before.atoms))
        except InputError as error:
            raise InputError(f"{place_of(before)}: {error}") from None


def _with_end(frame: Labeled, before: readers.Source, after: readers.Source) -> Labeled:
    """The frame and where its atoms end."""
    start, end = before.atoms, after.atoms
    if not np.array_equal(start.numbers, end.numbers):
        raise InputError(
            f"{place_of(before)} is {start.symbols} and {place_of(after)}, its relaxed partner,"
            f" {end.symbols}; they must have the same atoms in the same order"
        )
    move, _ = find_mic(end.positions - start.positions, start.cell, start.pbc)
    return Labeled(
        atoms=frame.atoms,
        tags=frame.tags,
        fixed=frame.fixed,
        energy=frame.energy,
        forces=frame.forces,
        relaxed=start.positions + move,
    )
