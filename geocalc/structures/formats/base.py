"""A file format: how the structures of a file are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ase import Atoms

Load = Callable[[], Atoms]


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """A file format.

    Attributes:
        read: gives one function per structure of a file, in order. Each returns its structure when
            it is called, so that a damaged structure does not stop the reading of the others.
        compressed: whether `read` takes files under gzip, xz or bzip2.
        in_folders: whether a folder of structures may hold files of this format.
    """

    read: Callable[[Path], Iterator[Load]]
    compressed: bool = False
    in_folders: bool = True


def ready(atoms: Atoms) -> Load:
    """A function that returns a structure that was read already."""
    return partial(_same, atoms)


def _same(atoms: Atoms) -> Atoms:
    return atoms
