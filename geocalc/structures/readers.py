"""Streaming of structures from files and folders of any format, with constant memory use."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import pickle
import sqlite3
import struct
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import lmdb
from ase import Atoms
from ase.db import connect
from ase.db.row import AtomsRow
from ase.io import ParseError, iread
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError
from ase.io.jsonio import decode
from ase.io.trajectory import TrajectoryReader

from geocalc.errors import InputError
from geocalc.structures.formats.oc20 import oc20_atoms, unpickle
from geocalc.structures.formats.rmd17 import SUFFIX as RMD17
from geocalc.structures.formats.rmd17 import rmd17_structures

PAGE = 200  # rows fetched from a database at a time
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_IN_FOLDERS = (
    ".traj",
    ".xyz",
    ".extxyz",
    ".db",
    ".json",
    ".aselmdb",
    ".lmdb",
    ".cif",
    ".vasp",
    ".poscar",
    ".pdb",
    ".xsf",
    ".gen",
)
_POSCAR = ("POSCAR", "CONTCAR")
# exceptions of third-party readers for damaged files; each is reported with its file
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
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

_Frame = Callable[[], Atoms]


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
            for _ in _frames(item) if isinstance(item, Path) else ():
                counted += 1
                if time.monotonic() > end:
                    return None
        except FAULTS:
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
    name = path.name
    for ending in _OPEN:
        name = name.removesuffix(ending)
    if not path.is_file():
        return _is_lmdb_folder(path)
    return not name.startswith(".") and (
        Path(name).suffix.lower() in _IN_FOLDERS or _is_poscar(path)
    )


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
    """Generate the structures of one file, continuing after a structure that cannot be read."""
    frames = _frames(path)
    for index in itertools.count():
        frame = None
        try:
            frame = next(frames, None)
            atoms = None if frame is None else frame()
        except FAULTS as error:
            what = f"{path}" if frame is None else f"structure {index} of {path}"
            sentence = (
                f"cannot read {what}: {_reason(error)}; check that it is complete and that its name"
                " tells its format"
            )
            if not tolerant:
                raise InputError(sentence) from error
            yield _fault(path, None if frame is None and index == 0 else index, name, sentence)
            if frame is None:
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


def _frames(path: Path) -> Iterator[_Frame]:
    """One function per structure of the file, which gives the structure when called."""
    name = path.name.lower()
    packed = next((ending for ending in _OPEN if name.endswith(ending)), "")
    ending = Path(name.removesuffix(packed)).suffix
    if not path.stat().st_size:
        return
    if ending in (".xyz", ".extxyz"):
        yield from _xyz_frames(path, packed)
    elif path.is_dir() or ending in (".lmdb", ".aselmdb"):
        yield from _lmdb_frames(path)
    elif ending == ".traj" and not packed:
        with path.open("rb") as stream, TrajectoryReader(stream) as trajectory:
            for index in range(len(trajectory)):
                yield _bind(trajectory.__getitem__, index)
    elif ending == RMD17 and not packed:
        for atoms in rmd17_structures(path):
            yield _bind(_unchanged, atoms)
    elif ending in (".db", ".json") and not packed:
        for row in _rows(path, ending[1:]):
            yield _bind(_row_atoms, row)
    else:
        for atoms in iread(str(path), index=":"):
            yield _bind(_unchanged, atoms)


def _unchanged(atoms: Atoms) -> Atoms:
    return atoms


def _bind(function: Callable[[Any], Atoms], argument: Any) -> _Frame:
    return lambda: function(argument)


def _xyz_frames(path: Path, packed: str) -> Iterator[_Frame]:
    """Cut an (ext)xyz file into frames while reading it forwards; seeking in a compressed file
    would start it anew.
    """
    with _OPEN.get(packed, open)(path, "rt", encoding="utf-8") as stream:
        for number in itertools.count():
            head = stream.readline()
            if not head.strip():
                rest = next((line for line in stream if line.strip()), None)
                if rest is None:
                    return
                head = rest
            yield _bind(_xyz_atoms, _xyz_text(head, stream, number))


def _xyz_text(head: str, stream: TextIO, number: int) -> str:
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


def _xyz_atoms(text: str) -> Atoms:
    return next(read_xyz(io.StringIO(text), 0))


def _rows(path: Path, kind: str) -> Iterator[AtomsRow]:
    """Rows of an ASE database in the order of their ids, a page at a time from SQLite."""
    database = connect(str(path), type=kind)
    if kind == "json":
        yield from database.select()
        return
    last = 0
    while True:
        page = list(database.select(f"id>{last}", sort="id", limit=PAGE))
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1].id


def _row_atoms(row: AtomsRow) -> Atoms:
    """Structure of a database row; its key-value pairs and data go to info."""
    atoms = row.toatoms()
    atoms.info.update(row.key_value_pairs)
    atoms.info.update(row.data)
    return atoms


def _lmdb_frames(path: Path) -> Iterator[_Frame]:
    """Records of an LMDB: numbered from 0 in OC20's layout, from 1 up to `nextid` in that of ASE
    databases.
    """
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
        keys: Iterable[int]
        next_id, length = transaction.get(b"nextid"), transaction.get(b"length")
        if next_id is not None:
            deleted = transaction.get(b"deleted_ids")
            gone = (
                set()
                if deleted is None
                else {int(i) for i in decode(zlib.decompress(deleted).decode())}
            )
            keys = (i for i in range(1, int(zlib.decompress(next_id))) if i not in gone)
        else:
            count = (
                transaction.stat()["entries"]
                if length is None
                else unpickle(bytes(length)).get("", 0)
            )
            keys = range(int(count))
        for key in keys:
            yield _bind(_record_atoms, (key, transaction.get(f"{key}".encode())))


def _record_atoms(item: tuple[int, bytes | None]) -> Atoms:
    key, record = item
    if record is None:
        raise InputError(
            f"there is no record {key}; it is neither an OC20 LMDB nor an ASE one, or a part of it"
            " is missing"
        )
    if record[:1] == b"\x80":  # what a pickle begins with
        return oc20_atoms(record)
    return _row_atoms(
        AtomsRow(
            {"id": key, "ctime": 0.0, "user": "", "unique_id": ""}
            | decode(zlib.decompress(record).decode())
        )
    )
