"""Prepared training data: one LMDB of plain arrays, with the schema version inside."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from safetensors.numpy import load, save

from geocalc.errors import InputError, RunFolderError

SCHEMA = 2
MAP_SIZE = 1 << 36  # bytes of address space, not of disk
_META = b"meta"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled frame.

    Attributes:
        numbers, tags: (n_atoms,) int64. positions, forces: (n_atoms, 3) Angstrom, eV/Angstrom (raw). fixed: (n_atoms, 3) bool.
        relaxed: (n_atoms, 3) Angstrom, where the atoms end. What a sample has no label of is NaN.
        cell: (3, 3) Angstrom. pbc: (3,) bool. energy: eV, of the recipe's kind.
        group: relaxation id. frame: place in it. source: index into the recipe's sources. validation: held out.
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
class StoreInfo:
    """What a prepared store holds: counts by reason, and the key of the recipe part that made it."""

    schema: int
    key: str
    n_samples: int
    dropped: dict[str, int]


def write_store(path: Path, samples: Iterable[Sample], key: str, dropped: dict[str, int]) -> StoreInfo:
    """Write samples in order, all in one transaction: a store holds everything or nothing.

    Args:
        path: file to write; what is there is replaced. samples: may be an iterator that counts what it leaves out.
        key: of the recipe part that made it. dropped: counts by reason, read when the samples are through.
    Raises:
        RunFolderError: the disk is full or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with lmdb.open(str(path), subdir=False, map_size=MAP_SIZE, readahead=False) as env:
            return _write(env, samples, key, dropped)
    except lmdb.Error as error:
        _remove(path)
        raise _unwritable(path, error) from None
    except BaseException:
        _remove(path)
        raise


def _unwritable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"cannot write {path}: {error}; free some space, or choose another place")


def _write(env: lmdb.Environment, samples: Iterable[Sample], key: str, dropped: dict[str, int]) -> StoreInfo:
    n = 0
    with env.begin(write=True) as transaction:
        for n, sample in enumerate(samples, start=1):
            arrays = {name: np.ascontiguousarray(getattr(sample, name)) for name in _ARRAYS}
            rest = {"energy": sample.energy, "group": sample.group, "frame": sample.frame}
            rest |= {"source": sample.source, "validation": sample.validation}
            transaction.put(b"%012d" % (n - 1), save(arrays | {"rest": np.frombuffer(json.dumps(rest).encode(), np.uint8)}))
        info = StoreInfo(schema=SCHEMA, key=key, n_samples=n, dropped=dict(dropped))
        transaction.put(_META, json.dumps(asdict(info)).encode())
    return info


def _remove(path: Path) -> None:
    for file in (path, path.with_name(f"{path.name}-lock")):
        file.unlink(missing_ok=True)


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
        raise InputError(f"{path} has data schema {info.schema}, this version reads {SCHEMA}; delete it to prepare it again")
    return info


def read_store(path: Path) -> list[Sample]:
    """Every sample, in order."""
    with _open(path) as env, env.begin() as transaction:
        return [_unpack(value) for key, value in transaction.cursor() if key != _META]


def _unpack(value: bytes) -> Sample:
    content: dict[str, Any] = dict(load(bytes(value)))
    rest = json.loads(content.pop("rest").tobytes())
    return Sample(**content, **rest)


def _open(path: Path) -> lmdb.Environment:
    return lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
