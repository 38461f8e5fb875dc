"""Prepared training data: one LMDB file of arrays with a schema version, read sample by sample."""

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

SCHEMA = 4
MAP_SIZE = 1 << 40  # bytes of address space, not of disk
# Angstrom; cutoff of the edges counted in `SampleIndex`, independent of the network
SIZE_CUTOFF = 5.0
N_READ = 256  # number of samples read at once in an iteration over all of them
_META, _INDEX = b"meta", b"index"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Labeled structure; NaN for unknown labels.

    Attributes:
        numbers: (n_atoms,) int64 atomic numbers.
        tags: (n_atoms,) int64 in the OC20 convention.
        positions: (n_atoms, 3) Angstrom.
        forces: (n_atoms, 3) eV/Angstrom, constraints not applied.
        relaxed: (n_atoms, 3) Angstrom, positions in the relaxed structure.
        fixed: (n_atoms, 3) bool, True for components that may not move.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
        energy: eV, of the kind defined by the recipe.
        group: name of the relaxation.
        image: index of the structure in the relaxation.
        source: index of the source in the recipe.
        validation: whether the structure is held out.
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
    image: int
    source: int
    validation: bool


_ARRAYS = ("numbers", "tags", "positions", "forces", "relaxed", "fixed", "cell", "pbc")


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """Properties of samples that are known without reading them.

    Attributes:
        source: (n,) index of the source in the recipe.
        relaxation: (n,) number of the relaxation, by first appearance.
        validation: (n,) bool, True for held-out samples.
        n_edges: (n,) number of directed edges not longer than `SIZE_CUTOFF`.
    """

    source: np.ndarray
    relaxation: np.ndarray
    validation: np.ndarray
    n_edges: np.ndarray

    def rows(self, chosen: np.ndarray) -> SampleIndex:
        """Return the index of some samples, given by a mask or by numbers."""
        return SampleIndex(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def build_index(samples: Iterable[Sample]) -> SampleIndex:
    """Return the index of samples in order.

    Raises:
        InputError: the neighbor list of a sample cannot be computed; the message names the sample.
    """
    rows, numbers = array("q"), dict[tuple[int, str], int]()
    for sample in samples:
        relaxation = numbers.setdefault((sample.source, sample.group), len(numbers))
        rows.extend((sample.source, relaxation, sample.validation, _count_edges(sample)))
    table = np.array(rows, dtype=np.int64).reshape(-1, 4).astype(np.int32)
    return SampleIndex(
        source=table[:, 0], relaxation=table[:, 1], validation=table[:, 2] > 0, n_edges=table[:, 3]
    )


def _count_edges(sample: Sample) -> int:
    """Return the number of edges of a sample."""
    try:
        return count_edges(sample.positions, sample.cell, sample.pbc, SIZE_CUTOFF)
    except InputError as error:
        raise InputError(f"image {sample.image} of relaxation {sample.group}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """Description of a prepared store.

    Attributes:
        schema: schema version.
        key: hash of the settings and files that the store was prepared from.
        n_samples: number of samples.
        dropped: number of excluded structures by reason.
    """

    schema: int
    key: str
    n_samples: int
    dropped: dict[str, int]


def write_store(
    path: Path, samples: Iterable[Sample], key: str, dropped: dict[str, int]
) -> StoreInfo:
    """Write samples in order, and replace the file atomically.

    Other processes that prepare the same store never see an incomplete file.

    Args:
        path: file to write or replace.
        samples: samples; may be an iterator that counts excluded structures in `dropped`.
        key: see `StoreInfo`.
        dropped: number of excluded structures by reason, read after the last sample.
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
    """Return the error for a store that cannot be written."""
    return RunFolderError(
        f"cannot write {path}: {error}; free some disk space, or choose another folder"
    )


def _write(
    env: lmdb.Environment, samples: Iterable[Sample], key: str, dropped: dict[str, int]
) -> StoreInfo:
    """Write samples, index and description to an open database."""
    with env.begin(write=True) as transaction:

        def stored() -> Iterator[Sample]:
            for number, sample in enumerate(samples):
                transaction.put(_key(number), _pack(sample))
                yield sample

        index = build_index(stored())
        info = StoreInfo(schema=SCHEMA, key=key, n_samples=len(index.source), dropped=dict(dropped))
        transaction.put(
            _INDEX,
            save({f.name: np.ascontiguousarray(getattr(index, f.name)) for f in fields(index)}),
        )
        transaction.put(_META, json.dumps(asdict(info)).encode())
    return info


def _key(number: int) -> bytes:
    """Return the database key of a sample."""
    return b"%012d" % number


def _pack(sample: Sample) -> bytes:
    """Serialize a sample."""
    arrays = {name: np.ascontiguousarray(getattr(sample, name)) for name in _ARRAYS}
    scalars = {"energy": sample.energy, "group": sample.group, "image": sample.image}
    scalars |= {"source": sample.source, "validation": sample.validation}
    return save(arrays | {"scalars": np.frombuffer(json.dumps(scalars).encode(), np.uint8)})


def read_info(path: Path) -> StoreInfo | None:
    """Return the description of the store at `path`; None if it is missing, incomplete or damaged.

    Raises:
        InputError: the store has another schema version.
    """
    if not path.is_file():
        return None
    try:
        with _open(path) as env, env.begin() as transaction:
            text = transaction.get(_META)
    except lmdb.Error:  # not a database, for example after a full disk or an interrupted copy
        return None
    if text is None:
        return None
    info = StoreInfo(**json.loads(text))
    if info.schema != SCHEMA:
        raise InputError(
            f"{path} has data schema {info.schema}, but this version reads {SCHEMA}; delete the"
            " file to prepare it again"
        )
    return info


class Samples(Sequence[Sample]):
    """Samples of a store, read from disk on access and not kept in memory.

    The file is open only while samples are read.

    Args:
        path: the store.
        numbers: (n,) numbers of the samples in the store, in order of access.
        index: index of these samples.
    """

    def __init__(self, path: Path, numbers: np.ndarray, index: SampleIndex) -> None:
        self._path, self._numbers, self.sample_index = path, numbers, index

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._numbers)

    @overload
    def __getitem__(self, k: int) -> Sample: ...
    @overload
    def __getitem__(self, k: slice) -> Samples: ...
    def __getitem__(self, k: int | slice) -> Sample | Samples:
        """Read one sample, or return a slice without reading."""
        if isinstance(k, slice):
            return self.where(np.arange(len(self))[k])
        return self.read([range(len(self))[k]])[0]

    def __iter__(self) -> Iterator[Sample]:
        """Generate all samples in order, with a limited number in memory."""
        for start in range(0, len(self), N_READ):
            yield from self.read(range(start, min(start + N_READ, len(self))))

    def where(self, chosen: np.ndarray) -> Samples:
        """Return some of the samples, by positions or by a mask (n,), without reading."""
        return Samples(self._path, self._numbers[chosen], self.sample_index.rows(chosen))

    @property
    def held_out(self) -> Samples:
        """Samples of the validation split."""
        return self.where(self.sample_index.validation)

    @property
    def training(self) -> Samples:
        """Samples of the training split."""
        return self.where(~self.sample_index.validation)

    def read(self, positions: Sequence[int]) -> list[Sample]:
        """Read the samples at some positions, in the given order.

        Raises:
            InputError: the store is missing or damaged.
        """
        try:
            with _open(self._path) as env, env.begin() as transaction:
                found = [transaction.get(_key(int(self._numbers[k]))) for k in positions]
        except lmdb.Error as error:
            raise InputError(
                f"cannot read the prepared data {self._path}: {error}; use --resume to prepare"
                " them again"
            ) from None
        if None in found:
            raise InputError(
                f"{self._path} is incomplete: samples are missing; delete the file to prepare it"
                " again"
            )
        return [_unpack(value) for value in found]


def read_store(path: Path) -> Samples:
    """Open a prepared store, reading only the index.

    Raises:
        InputError: the store is missing or damaged.
    """
    try:
        with _open(path) as env, env.begin() as transaction:
            index = SampleIndex(**load(transaction.get(_INDEX)))
    except (lmdb.Error, SafetensorError, TypeError) as error:
        raise InputError(
            f"cannot read the prepared data {path}: {error}; delete the file to prepare it again"
        ) from None
    return Samples(path, np.arange(len(index.source)), index)


def _unpack(value: bytes) -> Sample:
    """Deserialize a sample."""
    content: dict[str, Any] = dict(load(value))
    scalars = json.loads(content.pop("scalars").tobytes())
    return Sample(**content, **scalars)


def _open(path: Path) -> lmdb.Environment:
    """Open a store for reading."""
    return lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
