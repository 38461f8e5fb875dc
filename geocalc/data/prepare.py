"""Preparation of training samples from labeled files: filtering, splitting and storing."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from geocalc.data.pairs import relaxed_pairs
from geocalc.data.read import LabeledImage, locate, reject_zeroed_forces, relaxations
from geocalc.data.settings import Data, DataPlan, DataSource
from geocalc.data.store import SCHEMA, Sample, read_info, write_store
from geocalc.errors import InputError

__all__ = [
    "ReferenceRelaxation",
    "is_test",
    "is_validation",
    "locate",
    "prepare_store",
    "reference_relaxations",
    "samples_of_file",
    "samples_of_test",
    "stamp_of",
]

log = logging.getLogger(__name__)


def prepare_store(plan: DataPlan, folder: Path) -> Path:
    """Return the path of the prepared store of a recipe's data under `folder`.

    The store is created if it does not exist or if the files have changed.

    Raises:
        InputError: a file is missing or unreadable, contains no labels, or its forces on fixed
            atoms were set to zero.
        RunFolderError: the store cannot be written.
    """
    data = plan.data
    key = _key(plan)
    path = folder / f"data-{key}.lmdb"
    info = read_info(path)
    if info is None:
        if plan.learns_fixed:
            for source in data.sources:
                reject_zeroed_forces(source)
        dropped: Counter[str] = Counter()
        samples = _samples(plan, dropped)
        first = next(samples, None)
        if first is None:
            files = ", ".join(str(source.path) for source in data.sources)
            raise InputError(
                f"no labeled structure of {files} passed the filters (excluded: {dict(dropped)});"
                " relax the filters"
            )
        info = write_store(path, itertools.chain([first], samples), key, dropped)
    log.info("%d samples in %s, excluded: %s", info.n_samples, path.name, info.dropped or "none")
    return path


def is_validation(
    group: str, data: Data, atoms: Atoms | None = None, split_key: str | None = None
) -> bool:
    """Whether a relaxation is held out for validation.

    Determined by the hash of its name, or by its info if `data.validation_key` is set.

    Args:
        group: name of the relaxation.
        data: data settings.
        atoms: a structure of the relaxation, for its info.
        split_key: info key that replaces the name.
    """
    if data.validation_key is not None and atoms is not None:
        return str(atoms.info.get(data.validation_key)) in data.validation_values
    return _hash(group, data, atoms, split_key) < data.validation_fraction * 2**64


def is_test(
    group: str, data: Data, atoms: Atoms | None = None, split_key: str | None = None
) -> bool:
    """Whether a relaxation is held out for the test, determined by the hash of its name.

    Args:
        group: name of the relaxation.
        data: data settings.
        atoms: a structure of the relaxation, for its info.
        split_key: info key that replaces the name.
    """
    if not data.test_fraction:
        return False
    held_out = data.validation_fraction + data.test_fraction
    return (
        data.validation_fraction * 2**64 <= _hash(group, data, atoms, split_key) < held_out * 2**64
    )


def _hash(group: str, data: Data, atoms: Atoms | None, split_key: str | None) -> int:
    """Return a 64-bit hash of the name of a relaxation."""
    if split_key is not None and atoms is not None:
        group = str(atoms.info.get(split_key, group))
    return int.from_bytes(hashlib.sha256(f"{data.split_seed}:{group}".encode()).digest()[:8], "big")


@dataclass(frozen=True, kw_only=True)
class ReferenceRelaxation:
    """Images of a labeled relaxation in order, with energies as defined by the recipe."""

    images: tuple[Sample, ...]

    @property
    def first(self) -> Sample:
        """Initial image."""
        return self.images[0]

    @property
    def last(self) -> Sample:
        """Final image."""
        return self.images[-1]


def reference_relaxations(
    data: Data, source: int, validation: bool | None = True, use_tags: bool = True
) -> list[ReferenceRelaxation]:
    """Return the relaxations of one source in one split, filtered by the flags of the source only.

    Args:
        data: data settings of a recipe.
        source: index in `data.sources`.
        validation: True for held-out relaxations, False for training relaxations, None for all.
        use_tags: as in `relaxations`.
    """
    chosen = []
    for group, images in relaxations(data.sources[source], None, Counter(), use_tags):
        key = (group, data, images[0].atoms if images else None, data.sources[source].split_key)
        held_out = is_validation(*key)
        if len(images) > 1 and (
            validation is None or (validation is held_out and not is_test(*key))
        ):
            samples = tuple(
                _sample(image, group, k, source, held_out) for k, image in enumerate(images)
            )
            chosen.append(ReferenceRelaxation(images=samples))
    return chosen


def samples_of_file(path: Path, use_tags: bool = True, needs_forces: bool = True) -> list[Sample]:
    """Return every labeled structure of a file with its stored energy, unfiltered.

    Args:
        path: the file.
        use_tags: as in `relaxations`.
        needs_forces: as in `relaxations`.
    Raises:
        InputError: the file is missing or contains no labels, or its forces on fixed atoms were set
            to zero.
    """
    source = DataSource(path=path)
    if needs_forces:
        reject_zeroed_forces(source)
    return [
        _sample(image, group, k, 0, True)
        for group, images in relaxations(source, None, Counter(), use_tags, needs_forces)
        for k, image in enumerate(images)
    ]


def samples_of_test(plan: DataPlan) -> list[Sample]:
    """Return the samples held out for the test by `data.test_fraction`, filtered like the others.

    Raises:
        InputError: as `prepare_store`; also if no structure is held out for the test.
    """
    samples = list(_samples(plan, Counter(), test=True))
    if not samples:
        raise InputError(
            f"recipe {plan.name} holds out no structure for the test; set data.test_fraction"
        )
    return samples


def _key(plan: DataPlan) -> str:
    """Return the key of a store.

    It changes with the settings and with the size or time of a file.
    """
    data = plan.data
    files = [
        path
        for source in data.sources
        for path in (source.path, source.relaxed)
        if path is not None
    ]
    stamps = [stamp_of(locate(path)) for path in files]
    # samples do not depend on the excluded settings
    excluded = {"level", "energies", "weight", "domain"}
    rules = data.model_dump(mode="json", exclude={"sources": {"__all__": excluded}})
    text = json.dumps(
        [SCHEMA, rules, stamps, plan.learns_fixed, plan.uses_tags, plan.needs_forces],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamp_of(path: Path) -> list[tuple[str, int, int]]:
    """Return the name, size and modification time of a file, or of the files of a folder."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _samples(plan: DataPlan, dropped: Counter[str], test: bool = False) -> Iterator[Sample]:
    """Generate the samples for training and validation, or those held out for the test."""
    data = plan.data
    for number, source in enumerate(data.sources):
        found = (
            relaxed_pairs(source, dropped, plan.uses_tags)
            if source.relaxed
            else relaxations(source, data.max_jump, dropped, plan.uses_tags, plan.needs_forces)
        )
        for group, images in found:
            for k, image in enumerate(images):
                if is_test(group, data, image.atoms, source.split_key) is not test:
                    dropped["held out for the test"] += 1
                    continue
                if np.linalg.norm(image.forces, axis=1).max(initial=0.0) > data.max_force:
                    dropped["force above max_force"] += 1
                    continue
                yield _sample(
                    image,
                    group,
                    k,
                    number,
                    is_validation(group, data, image.atoms, source.split_key),
                )


def _sample(image: LabeledImage, group: str, k: int, source: int, validation: bool) -> Sample:
    """Convert labeled image number `k` of a relaxation to a sample."""
    atoms = image.atoms
    return Sample(
        numbers=atoms.numbers.astype(np.int64),
        tags=image.tags.astype(np.int64),
        positions=atoms.positions.copy(),
        forces=image.forces,
        relaxed=image.relaxed,
        fixed=image.fixed,
        cell=np.array(atoms.cell),
        pbc=atoms.pbc.copy(),
        energy=image.energy,
        group=group,
        image=k,
        source=source,
        validation=validation,
    )
