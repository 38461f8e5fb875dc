"""Prepared training data: one LMDB of plain arrays, with the schema version inside, read sample by
sample.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, overload

import lmdb
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from geocalc.errors import InputError, RunFolderError
from geocalc.graphs.neighbors import count_edges

SCHEMA = 3
MAP_SIZE = 1 << 40  # bytes of address space, not of disk
# Angstrom; how far the edges reach by which structures are compared in size, whatever the network's
# cutoff
NEAR = 5.0
TOGETHER = 256  # samples read at once by whoever goes through all of them
_META, _INDEX = b"meta", b"index"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labeled frame.

    Attributes:
        numbers, tags: (n_atoms,) int64.
        positions, forces: (n_atoms, 3) Angstrom, eV/Angstrom (raw).
        fixed: (n_atoms, 3) bool.
        relaxed: (n_atoms, 3) Angstrom, where the atoms end. What a sample has no label of is NaN.
        cell: (3, 3) Angstrom.
        pbc: (3,) bool.
        energy: eV, of the recipe's kind.
        group: relaxation id.
        frame: place in it.
        source: index into the recipe's sources.
        validation: held out.
    """

    numbers: np.ndarray
    tags: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    relaxed: np.ndarray
    fixed: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float
    group: str
    frame: int
    source: int
    validation: bool


_ARRAYS = ("numbers", "tags", "positions", "forces", "relaxed", "fixed", "cell", "pbc")


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is known of samples without reading them; everything else stays on the disk.

    Attributes:
        source: (n,) index into the recipe's sources.
        relaxation: (n,) number of the relaxation, by first appearance.
        validation: (n,) bool, held out.
        n_edges: (n,) directed edges no longer than `NEAR`.
    """

    source: np.ndarray
    relaxation: np.ndarray
    validation: np.ndarray
    n_edges: np.ndarray

    def rows(self, chosen: np.ndarray) -> Index:
        """The same of some samples, by number."""
        return Index(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def index_of(samples: Iterable[Sample]) -> Index:
    """The index of samples in order.

    Raises:
        InputError: no neighbor list can be made of one; the message names it.
    """
    rows, seen = array("q"), dict[tuple[int, str], int]()
    for sample in samples:
        relaxation = seen.setdefault((sample.source, sample.group), len(seen))
        rows.extend((sample.source, relaxation, sample.validation, _size(sample)))
    table = np.array(rows, dtype=np.int64).reshape(-1, 4).astype(np.int32)
    return Index(
        source=table[:, 0], relaxation=table[:, 1], validation=table[:, 2] > 0, n_edges=table[:, 3]
    )


def _size(sample: Sample) -> int:
    try:
        return count_edges(sample.positions, sample.cell, sample.pbc, NEAR)
    except InputError as error:
        raise InputError(f"frame {sample.frame} of relaxation {sample.group}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What a prepared store holds: counts by reason, and the key of the recipe part that made it."""

    schema: int
    key: str
    n_samples: int
    dropped: dict[str, int]


def write_store(
    path: Path, samples: Iterable[Sample], key: str, dropped: dict[str, int]
) -> StoreInfo:
    """Write samples in order; the file takes its place when it is whole, so that others who prepare
    it meanwhile never meet a part.

    Args:
        path: file to write; what is there is replaced.
        samples: may be an iterator that counts what it leaves out.
        key: of the recipe part that made it.
        dropped: counts by reason, read when the samples are through.
    Raises:
        RunFolderError: the disk is full or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with lmdb.open(
            str(scratch / path.name), subdir=False, map_size=MAP_SIZE, readahead=False
        ) as env:
            info = _write(env, samples, key, dropped)
        os.replace(scratch / path.name, path)
    except (lmdb.Error, OSError) as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return info


def _unwritable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"cannot write {path}: {error}; free some space, or choose another place")


def _write(
    env: lmdb.Environment, samples: Iterable[Sample], key: str, dropped: dict[str, int]
) -> StoreInfo:
    with env.begin(write=True) as transaction:

        def stored() -> Iterator[Sample]:
            for number, sample in enumerate(samples):
                transaction.put(_key(number), _pack(sample))
                yield sample

        index = index_of(stored())
        info = StoreInfo(schema=SCHEMA, key=key, n_samples=len(index.source), dropped=dict(dropped))
        transaction.put(
            _INDEX,
            save({f.name: np.ascontiguousarray(getattr(index, f.name)) for f in fields(index)}),
        )
        transaction.put(_META, json.dumps(asdict(info)).encode())
    return info


def _key(number: int) -> bytes:
    return b"%012d" % number


def _pack(sample: Sample) -> bytes:
    arrays = {name: np.ascontiguousarray(getattr(sample, name)) for name in _ARRAYS}
    rest = {"energy": sample.energy, "group": sample.group, "frame": sample.frame}
    rest |= {"source": sample.source, "validation": sample.validation}
    return save(arrays | {"rest": np.frombuffer(json.dumps(rest).encode(), np.uint8)})


def read_info(path: Path) -> StoreInfo | None:
    """What the store at `path` holds; None if there is none, or it is unfinished or damaged.

    Raises:
        InputError: the store was written by another schema version.
    """
    if not path.is_file():
        return None
    try:
        with _open(path) as env, env.begin() as transaction:
            text = transaction.get(_META)
    except lmdb.Error:  # no database: what a full disk or a copy left behind
        return None
    if text is None:
        return None
    info = StoreInfo(**json.loads(text))
    if info.schema != SCHEMA:
        raise InputError(
            f"{path} has data schema {info.schema}, this version reads {SCHEMA}; delete it to"
            " prepare it again"
        )
    return info


class Samples(Sequence[Sample]):
    """Samples of a store, read from the disk whenever they are asked for and never kept; the file
    is open only while they are.

    Args:
        path: of the store.
        numbers: (n,) places in it, in the order wanted.
        known: of these samples.
    """

    def __init__(self, path: Path, numbers: np.ndarray, known: Index) -> None:
        self._path, self._numbers, self.known = path, numbers, known

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> Samples: ...
    def __getitem__(self, place: int | slice) -> Sample | Samples:
        """One sample, or a part that reads nothing yet."""
        if isinstance(place, slice):
            return self.where(np.arange(len(self))[place])
        return self.read([range(len(self))[place]])[0]

    def __iter__(self) -> Iterator[Sample]:
        """Every sample in order, a few in memory at a time."""
        for start in range(0, len(self), TOGETHER):
            yield from self.read(range(start, min(start + TOGETHER, len(self))))

    def where(self, chosen: np.ndarray) -> Samples:
        """Some of the samples, by place or by a mask (n,); reads nothing."""
        return Samples(self._path, self._numbers[chosen], self.known.rows(chosen))

    @property
    def held_out(self) -> Samples:
        """Those of the validation split."""
        return self.where(self.known.validation)

    @property
    def training(self) -> Samples:
        """Those that are learned from."""
        return self.where(~self.known.validation)

    def read(self, places: Sequence[int]) -> list[Sample]:
        """The samples at some places, in the order of these.

        Raises:
            InputError: the store is gone or damaged.
        """
        try:
            with _open(self._path) as env, env.begin() as transaction:
                found = [transaction.get(_key(int(self._numbers[place]))) for place in places]
        except lmdb.Error as error:
            raise InputError(
                f"cannot read the prepared data {self._path}: {error}; with --resume they are made"
                " again"
            ) from None
        if None in found:
            raise InputError(
                f"{self._path} does not hold all of its samples; delete it to prepare it again"
            )
        return [_unpack(value) for value in found]


def read_store(path: Path) -> Samples:
    """Every sample, in order; only the index is read now.

    Raises:
        InputError: the store is gone or damaged.
    """
    try:
        with _open(path) as env, env.begin() as transaction:
            index = Index(**load(transaction.get(_INDEX)))
    except (lmdb.Error, SafetensorError, TypeError) as error:
        raise InputError(
            f"cannot read the prepared data {path}: {error}; delete the file to prepare it again"
        ) from None
    return Samples(path, np.arange(len(index.source)), index)


def _unpack(value: bytes) -> Sample:
    content: dict[str, Any] = dict(load(value))
    rest = json.loads(content.pop("rest").tobytes())
    return Sample(**content, **rest)


def _open(path: Path) -> lmdb.Environment:
    return lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
