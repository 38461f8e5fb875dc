"""(Extended) XYZ files, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ase import Atoms
from ase.io.extxyz import read_xyz

from geocalc.errors import InputError
from geocalc.structures.formats.base import Load

COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}


def read_extended_xyz(path: Path) -> Iterator[Load]:
    """Images of an (extended) XYZ file, one function each.

    The file is cut into images while it is read forwards: seeking in a compressed file would start
    it anew.
    """
    with COMPRESSED.get(path.suffix.lower(), open)(path, "rt", encoding="utf-8") as stream:
        for number in itertools.count():
            head = stream.readline()
            if not head.strip():
                rest = next((line for line in stream if line.strip()), None)
                if rest is None:
                    return
                head = rest
            yield partial(_atoms, _text(head, stream, number))


def _text(head: str, stream: TextIO, number: int) -> str:
    try:
        count = int(head)
    except ValueError:
        raise InputError(
            f"frame {number} begins with {head.strip()[:40]!r} where the number of atoms is"
            " expected"
        ) from None
    lines = [head, *itertools.islice(stream, count + 1)]
    if len(lines) < count + 2:
        raise InputError(
            f"the file ends inside frame {number}, after {max(len(lines) - 2, 0)} of {count} atoms"
        )
    return "".join(lines)


def _atoms(text: str) -> Atoms:
    return next(read_xyz(io.StringIO(text), 0))
