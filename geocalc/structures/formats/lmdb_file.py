"""LMDB files opened for reading alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb


@contextmanager
def open_lmdb(path: Path) -> Iterator[lmdb.Transaction]:
    """A read transaction on an LMDB file, or on a folder with its `data.mdb`; nothing is locked."""
    with (
        lmdb.open(
            str(path),
            subdir=path.is_dir(),
            readonly=True,
            lock=False,
            readahead=False,
            meminit=False,
        ) as environment,
        environment.begin() as transaction,
    ):
        yield transaction
