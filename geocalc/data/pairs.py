"""Pairs of unrelaxed and relaxed structures, read from two files or from records with both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from ase.geometry import find_mic

from geocalc.data.read import (
    ImageReader,
    LabeledImage,
    locate,
    location_of,
    relaxation_name,
    structures_of,
)
from geocalc.data.settings import DataSource
from geocalc.errors import InputError
from geocalc.structures import readers
from geocalc.structures.formats.oc20 import relaxed_partner


def relaxed_pairs(
    source: DataSource, dropped: Counter[str], use_tags: bool = True
) -> Iterator[tuple[str, list[LabeledImage]]]:
    """Generate unrelaxed structures with the energy and positions of the relaxed structure.

    Relaxed positions are those of the image nearest to the unrelaxed atom.

    Args:
        source: source with `relaxed`; if it equals `path`, each record contains both structures, as
            in OC20.
        dropped: counts of excluded structures by reason, updated.
        use_tags: as in `geocalc.data.read.relaxations`.
    Yields:
        Name of each pair, and a list of its image, empty if it was excluded.
    Raises:
        InputError: the files cannot be read, differ in length or in a structure, or contain no
            energies.
    """
    if source.relaxed is None:
        raise InputError(
            f"the source {source.path} has no file of relaxed structures; set it as `relaxed`"
        )
    start, end = locate(source.path), locate(source.relaxed)
    reader = ImageReader(source, start, use_tags, needs_forces=False)
    pairs = _pairs_of_records(start) if start.samefile(end) else _pairs_of_files(start, end)
    for before, after in pairs:
        group = relaxation_name(before, source, start)
        image = reader.read(before, group, dropped, labeled_by=after)
        yield group, [] if image is None else [_with_relaxed(image, before, after)]
    reader.finish()


def _pairs_of_files(start: Path, end: Path) -> Iterator[tuple[readers.Source, readers.Source]]:
    """Generate pairs of structures from two files."""
    for before, after in zip_longest(structures_of(start), structures_of(end)):
        if before is None or after is None:
            longer, shorter = (end, start) if before is None else (start, end)
            raise InputError(
                f"{longer} contains more structures than {shorter}; give files with the same number"
                " of unrelaxed and relaxed structures"
            )
        yield before, after


def _pairs_of_records(path: Path) -> Iterator[tuple[readers.Source, readers.Source]]:
    """Generate pairs of structures from a file whose records contain both."""
    for before in structures_of(path):
        try:
            yield before, replace(before, atoms=relaxed_partner(before.atoms))
        except InputError as error:
            raise InputError(f"{location_of(before)}: {error}") from None


def _with_relaxed(
    image: LabeledImage, before: readers.Source, after: readers.Source
) -> LabeledImage:
    """Return the image with the relaxed positions of its atoms."""
    start, end = before.atoms, after.atoms
    if not np.array_equal(start.numbers, end.numbers):
        raise InputError(
            f"{location_of(before)} is {start.symbols} but {location_of(after)}, its relaxed"
            f" structure, is {end.symbols}; give the same atoms in the same order"
        )
    displacement, _ = find_mic(end.positions - start.positions, start.cell, start.pbc)
    return LabeledImage(
        atoms=image.atoms,
        tags=image.tags,
        fixed=image.fixed,
        energy=image.energy,
        forces=image.forces,
        relaxed=start.positions + displacement,
    )
