"""Streaming of structures from files and folders of any format, with constant memory use."""

from __future__ import annotations

import itertools
import logging
import lzma
import pickle
import sqlite3
import struct
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb
from ase import Atoms
from ase.io import ParseError, iread
from ase.io.formats import UnknownFileTypeError

from geocalc.errors import GeoCalcError, InputError
from geocalc.structures.formats.base import Load, ready
from geocalc.structures.formats.catalog import FORMATS
from geocalc.structures.formats.xyz import COMPRESSED

_OF_ASE = (".cif", ".vasp", ".poscar", ".pdb", ".xsf", ".gen")  # read from folders by ASE
_POSCAR = ("POSCAR", "CONTCAR")
# raised by ASE (which checks formats with assert), numpy and the standard library for files that
# are damaged or of another format; other exceptions are logged with their traceback
DAMAGED = (
    GeoCalcError,
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    ParseError,
    UnknownFileTypeError,
    lmdb.Error,
    lzma.LZMAError,
    pickle.UnpicklingError,
    sqlite3.Error,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

logger = logging.getLogger(__name__)


class LossyFormat(UserWarning):
    """Warning about a file format that cannot store all properties needed for a relaxation."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Structure of the input.

    Attributes:
        atoms: the structure as read, with unchanged tags and constraints.
        sid: `info["sid"]`, else `<file>#<index>`.
        path: the file.
        index: index in the file, from 0.
    """

    atoms: Atoms
    sid: str
    path: Path
    index: int


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Part of the input that could not be read.

    Attributes:
        path: the file.
        index: index in the file, None for the whole file.
        error: the reason, as a sentence.
        sid: `<file>#<index>`, or `<file>`.
    """

    path: Path
    index: int | None
    error: str
    sid: str


def read_structures(
    paths: str | Path | Iterable[str | Path], *, tolerant: bool = False
) -> Iterator[Source | Unreadable]:
    """Stream the structures of files and folders in order.

    Supported are all formats of ASE (traj, extxyz, POSCAR, CIF, db, json...), extxyz compressed
    with gzip, xz or bzip2, `.aselmdb`, LMDB of OC20 records, and `.npz` of rMD17, which is loaded
    as a whole. The structure files of a folder are read in the order of their names; `.npz` files,
    whose content is unknown, and subfolders are skipped.

    Args:
        paths: one or several files or folders.
        tolerant: yield `Unreadable` for structures that cannot be read and continue, instead of
            raising an error.
    Returns:
        An iterator with one structure in memory at a time. `<file>` in a sid is the name of the
        file, or its given path if two files have the same name.
    Raises:
        InputError: a file is missing, empty or unreadable, or a folder contains no structure file
            (missing files are reported before any is read).
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise InputError("no input was given; name at least one file or folder")
    found = [item for path in given for item in _expand(Path(path))]
    faults = [item for item in found if isinstance(item, Unreadable)]
    if faults and not tolerant:
        raise InputError(faults[0].error)
    files = [item for item in found if isinstance(item, Path)]
    _warn_of_losses(files)
    repeated = {name for name, count in Counter(path.name for path in files).items() if count > 1}
    return itertools.chain.from_iterable(
        (
            [item]
            if isinstance(item, Unreadable)
            else _stream(item, str(item) if item.name in repeated else item.name, tolerant)
        )
        for item in found
    )


def count_structures(paths: Iterable[str | Path], patience: float = 3.0) -> int | None:
    """Count the structures and faults that `read_structures` would yield.

    Structures are not parsed if the format allows counting without it.

    Args:
        paths: files and folders.
        patience: time limit in seconds.
    Returns:
        The number, or None if counting takes too long.
    """
    number, end = 0, time.monotonic() + patience
    for item in (item for path in paths for item in _expand(Path(path))):
        try:
            counted = 0 if isinstance(item, Path) else 1
            for _ in _loads(item) if isinstance(item, Path) else ():
                counted += 1
                if time.monotonic() > end:
                    return None
        except Exception:  # noqa: BLE001 - reading the file tells what is wrong with it
            counted += 1
        number += max(1, counted)
    return number


def _expand(path: Path) -> list[Path | Unreadable]:
    """Return the files of a path, or a description of the problem."""
    if not path.exists():
        return [_fault(path, None, path.name, f"{path} does not exist; check the path")]
    if not path.is_dir() or _is_lmdb_folder(path):
        return [path]
    inside: list[Path | Unreadable] = [
        item for item in sorted(path.iterdir()) if _is_structure_file(item)
    ]
    return inside or [
        _fault(
            path,
            None,
            path.name,
            f"the folder {path} holds no structure file; give the files themselves",
        )
    ]


def _is_lmdb_folder(path: Path) -> bool:
    return (path / "data.mdb").is_file()


def _is_structure_file(path: Path) -> bool:
    if not path.is_file():
        return _is_lmdb_folder(path)
    suffix, _ = _suffix(path)
    known = FORMATS[suffix].in_folders if suffix in FORMATS else suffix in _OF_ASE
    return not path.name.startswith(".") and (known or _is_poscar(path))


def _is_poscar(path: Path) -> bool:
    return any(word in path.name for word in _POSCAR) or path.suffix.lower() in (".vasp", ".poscar")


def _warn_of_losses(files: list[Path]) -> None:
    poscar = [path for path in files if _is_poscar(path)]
    cif = [path for path in files if ".cif" in (suffix.lower() for suffix in path.suffixes)]
    for found, lost in (
        (poscar, "POSCAR files hold no tags"),
        (cif, "CIF files hold neither tags nor constraints"),
    ):
        if found:
            warnings.warn(
                f"{lost} ({len(found)} given, first {found[0].name}); keep them in .traj or"
                " .extxyz",
                LossyFormat,
                stacklevel=3,
            )


def _stream(path: Path, name: str, tolerant: bool) -> Iterator[Source | Unreadable]:
    """Structures of one file; a frame that cannot be read does not stop those after it."""
    loads = _loads(path)
    for index in itertools.count():
        load = None
        try:
            load = next(loads, None)
            atoms = None if load is None else load()
        except Exception as error:
            what = f"{path}" if load is None else f"structure {index} of {path}"
            if not isinstance(error, DAMAGED):
                logger.exception("unexpected error while reading %s", what)
            sentence = (
                f"cannot read {what}: {_reason(error)}; check that it is complete and that its name"
                " tells its format"
            )
            if not tolerant:
                raise InputError(sentence) from error
            yield _fault(path, None if load is None and index == 0 else index, name, sentence)
            if load is None:
                return
            continue
        if atoms is None:
            break
        sid = atoms.info.get("sid")
        yield Source(
            atoms=atoms, sid=f"{name}#{index}" if sid is None else str(sid), path=path, index=index
        )
    if index == 0:
        sentence = f"{path} holds no structure; check that it was written completely"
        if not tolerant:
            raise InputError(sentence)
        yield _fault(path, None, name, sentence)


def _fault(path: Path, index: int | None, name: str, sentence: str) -> Unreadable:
    return Unreadable(
        path=path, index=index, error=sentence, sid=name if index is None else f"{name}#{index}"
    )


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if isinstance(error, InputError) else f"{type(error).__name__} {text}".strip()


def _loads(path: Path) -> Iterator[Load]:
    """One function per structure of the file, which gives the structure when called."""
    if not path.stat().st_size:
        return iter(())
    suffix, compressed = _suffix(path)
    file_format = FORMATS.get(".lmdb" if path.is_dir() else suffix)
    if file_format is not None and (file_format.compressed or not compressed):
        return file_format.read(path)
    return map(ready, iread(str(path), index=":"))


def _suffix(path: Path) -> tuple[str, bool]:
    """The suffix that tells the format, in lower case, and whether the file is compressed."""
    name = path.name.lower()
    packed = next((ending for ending in COMPRESSED if name.endswith(ending)), "")
    return Path(name.removesuffix(packed)).suffix, bool(packed)
