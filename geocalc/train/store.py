"""Prepared training data: one LMDB of plain arrays, with the schema version inside."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import lmdb
import numpy as np
from safetensors.numpy import load, save

from geocalc.errors import InputError

SCHEMA = 1
MAP_SIZE = 1 << 36  # bytes of address space, not of disk
_META = b"meta"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled frame.

    Attributes:
        numbers, tags: (n_atoms,) int64. positions, forces: (n_atoms, 3) Angstrom, eV/Angstrom (raw). fixed: (n_atoms, 3) bool.
        cell: (3, 3) Angstrom. pbc: (3,) bool. energy: eV, of the recipe's kind.
        group: relaxation id. frame: place in it. source: index into the recipe's sources. validation: held out.
    """

    numbers: np.ndarray
    tags: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    fixed: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float
    group: str
    frame: int
    source: int
    validation: bool


_ARRAYS = ("numbers", "tags", "positions", "forces", "fixed", "cell", "pbc")


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What a prepared store holds: counts by reason, and the key of the recipe part that made it."""

    schema: int
    key: str
    n_samples: int
    dropped: dict[str, int]


def write_store(path: Path, samples: Iterable[Sample], key: str, dropped: dict[str, int]) -> StoreInfo:
    """Write samples in order; the info record is written last, so a half-written store is never mistaken for a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    env = lmdb.open(str(path), subdir=False, map_size=MAP_SIZE, readahead=False)
    n = 0
    with env.begin(write=True) as transaction:
        transaction.drop(env.open_db(None, txn=transaction), delete=False)
        for n, sample in enumerate(samples, start=1):
            arrays = {name: np.ascontiguousarray(getattr(sample, name)) for name in _ARRAYS}
            rest = {"energy": sample.energy, "group": sample.group, "frame": sample.frame}
            rest |= {"source": sample.source, "validation": sample.validation}
            transaction.put(b"%012d" % (n - 1), save(arrays | {"rest": np.frombuffer(json.dumps(rest).encode(), np.uint8)}))
        info = StoreInfo(schema=SCHEMA, key=key, n_samples=n, dropped=dict(dropped))
        transaction.put(_META, json.dumps(asdict(info)).encode())
    env.close()
    return info


def read_info(path: Path) -> StoreInfo | None:
    """What the store at `path` holds; None if there is none or it is unfinished.

    Raises:
        InputError: the store was written by another schema version.
    """
    if not path.is_file():
        return None
    with _open(path) as env, env.begin() as transaction:
        text = transaction.get(_META)
    if text is None:
        return None
    info = StoreInfo(**json.loads(text))
    if info.schema != SCHEMA:
        raise InputError(f"{path} has data schema {info.schema}, this version reads {SCHEMA}; delete it to prepare it again")
    return info


def read_store(path: Path) -> list[Sample]:
    """Every sample, in order."""
    samples = []
    with _open(path) as env, env.begin() as transaction:
        for key, value in transaction.cursor():
            if key != _META:
                arrays = load(bytes(value))
                rest = json.loads(arrays.pop("rest").tobytes())
                samples.append(Sample(**arrays, **rest))
    return samples


def _open(path: Path) -> lmdb.Environment:
    return lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
