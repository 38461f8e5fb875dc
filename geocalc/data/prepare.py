"""Labeled files to training samples: filtered, split by relaxation, stored."""

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
from geocalc.data.read import Labeled, locate, refuse_zeroed, relaxations
from geocalc.data.settings import Data, DataPlan, DataSource
from geocalc.data.store import SCHEMA, Sample, read_info, write_store
from geocalc.errors import InputError

__all__ = [
    "ReferenceRelaxation",
    "is_test",
    "is_validation",
    "prepare_store",
    "reference_relaxations",
    "samples_of_file",
    "samples_of_test",
]

log = logging.getLogger(__name__)


def prepare_store(plan: DataPlan, folder: Path) -> Path:
    """The store of a recipe's data under `folder`, made unless it is there already and the files
    have not changed since.

    Raises:
        InputError: a file is missing or unreadable, holds no labels, or holds forces that were set
            to zero on fixed atoms.
        RunFolderError: the store cannot be written.
    """
    data = plan.data
    key = _key(plan)
    path = folder / f"data-{key}.lmdb"
    info = read_info(path)
    if info is None:
        if plan.learns_fixed:
            for source in data.sources:
                refuse_zeroed(source)
        dropped: Counter[str] = Counter()
        samples = _samples(plan, dropped)
        first = next(samples, None)
        if first is None:
            files = ", ".join(str(source.path) for source in data.sources)
            raise InputError(
                f"no labeled frame of {files} passed the filters (left out: {dict(dropped)});"
                " relax the filters"
            )
        info = write_store(path, itertools.chain([first], samples), key, dropped)
    log.info("%d samples in %s, left out: %s", info.n_samples, path.name, info.dropped or "none")
    return path


def is_validation(
    group: str, data: Data, atoms: Atoms | None = None, split_key: str | None = None
) -> bool:
    """Whether a relaxation is held out; a function of its name, so it never changes, or of its info
    where the data say so.
    """
    if data.validation_key is not None and atoms is not None:
        return str(atoms.info.get(data.validation_key)) in data.validation_values
    return _drawn(group, data, atoms, split_key) < data.validation_fraction * 2**64


def is_test(
    group: str, data: Data, atoms: Atoms | None = None, split_key: str | None = None
) -> bool:
    """Whether a relaxation is kept for the test; a function of its name."""
    if not data.test_fraction:
        return False
    held_out = data.validation_fraction + data.test_fraction
    return (
        data.validation_fraction * 2**64 <= _drawn(group, data, atoms, split_key) < held_out * 2**64
    )


def _drawn(group: str, data: Data, atoms: Atoms | None, split_key: str | None) -> int:
    """64 bits that a name stands for."""
    if split_key is not None and atoms is not None:
        group = str(atoms.info.get(split_key, group))
    return int.from_bytes(hashlib.sha256(f"{data.split_seed}:{group}".encode()).digest()[:8], "big")


@dataclass(frozen=True, kw_only=True)
class ReferenceRelaxation:
    """The frames of a labeled relaxation in order; energies as the recipe defines them."""

    frames: tuple[Sample, ...]

    @property
    def first(self) -> Sample:
        """Where it starts."""
        return self.frames[0]

    @property
    def last(self) -> Sample:
        """Where it ends."""
        return self.frames[-1]


def reference_relaxations(
    data: Data, source: int, validation: bool | None = True, use_tags: bool = True
) -> list[ReferenceRelaxation]:
    """The relaxations of one source on one side of the split, unfiltered but for the source's
    flags.

    Args:
        data: of a recipe.
        source: place in `data.sources`.
        validation: those held out, those that are not, or None for all.
        use_tags: as in `relaxations`.
    """
    chosen = []
    for group, frames in relaxations(data.sources[source], None, Counter(), use_tags):
        named = (group, data, frames[0].atoms if frames else None, data.sources[source].split_key)
        held_out = is_validation(*named)
        if len(frames) > 1 and (
            validation is None or (validation is held_out and not is_test(*named))
        ):
            samples = tuple(
                _sample(frame, group, k, source, held_out) for k, frame in enumerate(frames)
            )
            chosen.append(ReferenceRelaxation(frames=samples))
    return chosen


def samples_of_file(path: Path, use_tags: bool = True, needs_forces: bool = True) -> list[Sample]:
    """Every labeled frame of a file with its stored energy, unfiltered; `use_tags` and
    `needs_forces` as in `relaxations`.

    Raises:
        InputError: the file is not found, holds no labels, or forces that were set to zero on fixed
            atoms.
    """
    source = DataSource(path=path)
    if needs_forces:
        refuse_zeroed(source)
    return [
        _sample(frame, group, k, 0, True)
        for group, frames in relaxations(source, None, Counter(), use_tags, needs_forces)
        for k, frame in enumerate(frames)
    ]


def samples_of_test(plan: DataPlan) -> list[Sample]:
    """What `data.test_fraction` of a recipe kept for the test, read and filtered as its other
    structures are.

    Raises:
        InputError: as `prepare_store`; also if nothing was kept.
    """
    kept = list(_samples(plan, Counter(), test=True))
    if not kept:
        raise InputError(
            f"recipe {plan.name} keeps no structure for the test; set data.test_fraction"
        )
    return kept


def _key(plan: DataPlan) -> str:
    """Name of a store: it changes with the rules, and with the size or time of a file."""
    data = plan.data
    files = [
        path
        for source in data.sources
        for path in (source.path, source.relaxed)
        if path is not None
    ]
    stamps = [_stamp(locate(path)) for path in files]
    # samples do not depend on it
    rules = data.model_dump(mode="json", exclude={"sources": {"__all__": {"level", "energies"}}})
    text = json.dumps(
        [SCHEMA, rules, stamps, plan.learns_fixed, plan.uses_tags, plan.needs_forces],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _samples(plan: DataPlan, dropped: Counter[str], test: bool = False) -> Iterator[Sample]:
    """Samples for training and validation, or those that are kept for the test."""
    data = plan.data
    for number, source in enumerate(data.sources):
        found = (
            relaxed_pairs(source, dropped, plan.uses_tags)
            if source.relaxed
            else relaxations(source, data.max_jump, dropped, plan.uses_tags, plan.needs_forces)
        )
        for group, frames in found:
            for place, frame in enumerate(frames):
                if is_test(group, data, frame.atoms, source.split_key) is not test:
                    dropped["kept for the test"] += 1
                    continue
                if np.linalg.norm(frame.forces, axis=1).max(initial=0.0) > data.max_force:
                    dropped["force above max_force"] += 1
                    continue
                yield _sample(
                    frame,
                    group,
                    place,
                    number,
                    is_validation(group, data, frame.atoms, source.split_key),
                )


def _sample(frame: Labeled, group: str, place: int, source: int, validation: bool) -> Sample:
    atoms = frame.atoms
    return Sample(
        numbers=atoms.numbers.astype(np.int64),
        tags=frame.tags.astype(np.int64),
        positions=atoms.positions.copy(),
        forces=frame.forces,
        relaxed=frame.relaxed,
        fixed=frame.fixed,
        cell=np.array(atoms.cell),
        pbc=atoms.pbc.copy(),
        energy=frame.energy,
        group=group,
        frame=place,
        source=source,
        validation=validation,
    )
