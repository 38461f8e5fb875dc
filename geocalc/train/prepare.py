"""Labelled files to training samples: read, filter, split by relaxation, store."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import iread

from geocalc.errors import InputError
from geocalc.train.recipe import Data, Recipe, Source
from geocalc.train.store import Sample, StoreInfo, read_info, write_store

log = logging.getLogger(__name__)
Labelled = tuple[Atoms, float, np.ndarray]


def prepare(recipe: Recipe, folder: Path) -> Path:
    """The store of a recipe's data under `folder`, made unless it is there already.

    Raises:
        InputError: a file is missing, holds no labels, or holds forces that a reader set to zero on fixed atoms.
    """
    key = hashlib.sha256(json.dumps(recipe.data.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"data-{key}.lmdb"
    info = read_info(path)
    if info is None:
        dropped: Counter[str] = Counter()
        info = write_store(path, _samples(recipe.data, dropped), key, dropped)
        _check(info, recipe.data)
    log.info("%d samples in %s, left out: %s", info.n_samples, path.name, info.dropped or "none")
    return path


def is_validation(group: str, data: Data) -> bool:
    """Whether a relaxation is held out; a function of its name, so it never changes."""
    digest = hashlib.sha256(f"{data.split_salt}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < data.validation_share * 2**64


def locate(path: Path) -> Path:
    """A source's path, looked up in `$GEOCALC_DATA` unless it exists as given.

    Raises:
        InputError: it is in neither place.
    """
    if path.is_file():
        return path
    root = os.environ.get("GEOCALC_DATA")
    if root and (Path(root) / path).is_file():
        return Path(root) / path
    where = f"nor under GEOCALC_DATA={root}" if root else "and GEOCALC_DATA, the folder of data sets, is not set"
    raise InputError(f"data file {path} was not found here, {where}")


def _check(info: StoreInfo, data: Data) -> None:
    if info.n_samples == 0:
        files = ", ".join(str(source.path) for source in data.sources)
        raise InputError(f"no labelled frame was left from {files} (left out: {info.dropped}); labels and filters need a look")


@dataclass(frozen=True, kw_only=True)
class ReferenceRelaxation:
    """First and last frame of a labelled relaxation; energies as the recipe defines them."""

    first: Sample
    last: Sample


def reference_relaxations(data: Data, source: int, validation: bool = True) -> list[ReferenceRelaxation]:
    """The relaxations of one source that are held out (or those that are not), unfiltered but for the source's flags.

    Args:
        data: of a recipe. source: place in `data.sources`. validation: which side of the split.
    """
    chosen = []
    for group, frames in _groups(data.sources[source], None, Counter()):
        if is_validation(group, data) is validation and len(frames) > 1:
            first, last = (_sample(f, group, k, source, validation) for k, f in ((0, frames[0]), (len(frames) - 1, frames[-1])))
            chosen.append(ReferenceRelaxation(first=first, last=last))
    return chosen


def _samples(data: Data, dropped: Counter[str]) -> Iterator[Sample]:
    for number, source in enumerate(data.sources):
        for group, frames in _groups(source, data.max_jump, dropped):
            for place, (atoms, energy, forces) in enumerate(frames):
                if np.linalg.norm(forces, axis=1).max(initial=0.0) > data.max_force:
                    dropped["force above max_force"] += 1
                    continue
                yield _sample((atoms, energy, forces), group, place, number, is_validation(group, data))


def _sample(labelled: Labelled, group: str, place: int, source: int, validation: bool) -> Sample:
    atoms, energy, forces = labelled
    return Sample(
        numbers=atoms.numbers.astype(np.int64),
        tags=atoms.get_tags().astype(np.int64),
        positions=atoms.positions.copy(),
        forces=forces,
        fixed=_fixed(atoms),
        cell=np.array(atoms.cell),
        pbc=atoms.pbc.copy(),
        energy=energy,
        group=group,
        frame=place,
        source=source,
        validation=validation,
    )


def _groups(source: Source, max_jump: float | None, dropped: Counter[str]) -> Iterator[tuple[str, list[Labelled]]]:
    """Labelled frames of each relaxation, cut off where the energy jumps."""
    current: str | None = None
    frames: list[Labelled] = []
    for index, atoms in enumerate(_read(locate(source.path))):
        group = str(atoms.info.get(source.group_key, f"{source.path}#{index}"))
        if group != current and current is not None:
            yield current, _cut(frames, max_jump, dropped)
            frames = []
        current = group
        reason = _reject(atoms, source)
        if reason:
            dropped[reason] += 1
            continue
        results = atoms.calc.results  # raw: get_forces() would zero the forces of fixed atoms
        energy = float(results["energy"])
        energy += float(atoms.info[source.add_energy]) if source.add_energy else 0.0
        energy -= float(atoms.info[source.subtract_energy]) if source.subtract_energy else 0.0
        frames.append((atoms, energy, np.asarray(results["forces"], dtype=np.float64)))
    if current is not None:
        yield current, _cut(frames, max_jump, dropped)


def _reject(atoms: Atoms, source: Source) -> str | None:
    results = atoms.calc.results if atoms.calc is not None else {}
    if "energy" not in results or "forces" not in results:
        return "no energy or forces"
    if any(bool(atoms.info.get(flag)) is not wanted for flag, wanted in source.require.items()):
        return f"not {', '.join(source.require)}"
    if str(atoms.info.get(source.exclude_key)) in source.exclude_groups:
        return f"excluded by {source.exclude_key}"
    return None


def _cut(frames: list[Labelled], max_jump: float | None, dropped: Counter[str]) -> list[Labelled]:
    """The last run of frames along which the energy follows -F.dx (mean force of the two ends) within `max_jump`."""
    if max_jump is None:
        return frames
    start = 0
    for k in range(1, len(frames)):
        (before, e0, f0), (after, e1, f1) = frames[k - 1], frames[k]
        work = -0.5 * float(np.sum((f0 + f1) * (after.positions - before.positions)))
        if abs(e1 - e0 - work) > max_jump:
            start = k
    dropped["before an energy jump"] += start
    return frames[start:]


def _fixed(atoms: Atoms) -> np.ndarray:
    mask = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mask[constraint.index] = True
    return mask


def _read(path: Path) -> Iterator[Atoms]:
    if path.suffix == ".gz":  # ASE seeks in the file, which costs a decompression from the start each time
        with gzip.open(path, "rt") as handle:
            yield from iread(io.StringIO(handle.read()), index=":", format="extxyz")
    else:
        yield from iread(path, index=":")


def samples_of_file(path: Path) -> list[Sample]:
    """Every labelled frame of a file with its stored energy, unfiltered.

    Raises:
        InputError: the file is not found or holds no labels.
    """
    source = Source(path=path)
    samples = [
        _sample(frame, group, k, 0, True)
        for group, frames in _groups(source, None, Counter())
        for k, frame in enumerate(frames)
    ]
    if not samples:
        raise InputError(f"{path} holds no frame with energy and forces; label them REF_energy and REF_forces")
    return samples
