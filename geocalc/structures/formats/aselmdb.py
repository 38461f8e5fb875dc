"""`.aselmdb` files of fairchem: an ASE database kept in LMDB; fairchem is not needed.

Layout: each row is stored under its number, written in decimal digits, as a JSON object of the
fields of ASE's database rows, compressed by zlib. Arrays are plain lists, or in older files ASE's
`__ndarray__` objects. Rows are numbered from 1; `nextid` is the number after the last row,
`deleted_ids` the list of numbers that are no longer there, and `metadata` describes the whole;
these are JSON under zlib too. No value is a pickle, and none is read as one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.db.row import AtomsRow
from ase.io.jsonio import decode

from geocalc.errors import InputError
from geocalc.structures.formats.ase_database import row_atoms
from geocalc.structures.formats.base import Load
from geocalc.structures.formats.lmdb_file import open_lmdb

_DEFAULTS = {"ctime": 0.0, "mtime": 0.0, "user": "", "unique_id": ""}  # rows may lack these


def read_aselmdb(path: Path) -> Iterator[Load]:
    """Rows of an `.aselmdb` file in the order of their numbers, one function each.

    Each function returns a structure with tags, constraints, cell and pbc; energy, forces and
    stress as they are stored (forces on fixed atoms included) in a calculator; key-value pairs and
    data in `info`.

    Raises:
        InputError: the file has no `nextid`, or a value in it is not JSON under zlib. A function
            raises it where its row is missing or damaged.
    """
    with open_lmdb(path) as transaction:
        next_id = transaction.get(b"nextid")
        if next_id is None:
            raise InputError(
                "it has no key nextid, which every ASE database in LMDB has; name an LMDB of OC20"
                " .lmdb"
            )
        deleted = transaction.get(b"deleted_ids")
        gone = set() if deleted is None else set(_numbers(deleted))
        (end,) = _numbers(next_id)
        for number in range(1, end):
            if number not in gone:
                yield partial(_atoms, number, transaction.get(str(number).encode()))


def _atoms(number: int, stored: bytes | None) -> Atoms:
    """Structure of one row."""
    if stored is None:
        raise InputError(f"there is no row {number}; a part of the file is missing")
    fields = _json(stored)
    if not isinstance(fields, dict) or not {"numbers", "positions"} <= set(fields):
        raise InputError(
            f"row {number} has no numbers and positions; expected a row of an ASE database"
        )
    return row_atoms(AtomsRow(_DEFAULTS | fields | {"id": number}))


def _numbers(stored: bytes) -> list[int]:
    """A number or a list of numbers."""
    value = _json(stored)
    values = value if isinstance(value, list) else [value]
    if not all(type(each) is int for each in values):
        raise InputError(
            f"nextid and deleted_ids hold numbers of rows, got {str(value)[:40]}; the file is"
            " damaged"
        )
    return values


def _json(stored: bytes) -> Any:
    try:
        return decode(zlib.decompress(stored).decode(), always_array=False)
    except (zlib.error, ValueError) as error:
        raise InputError(
            "a value is not JSON compressed by zlib, as in an ASE database in LMDB; pickled records"
            " belong in a file that ends in .lmdb"
        ) from error
