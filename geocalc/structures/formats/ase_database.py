"""Databases of ASE: SQLite (.db) and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ase import Atoms
from ase.db import connect
from ase.db.row import AtomsRow

from geocalc.structures.formats.base import Load

PAGE = 200  # rows fetched from a database at a time


def read_database(path: Path) -> Iterator[Load]:
    """Rows of an ASE database in the order of their ids, one function each.

    Args:
        path: a file whose suffix is .db or .json; rows of the first are fetched a page at a time.
    """
    for row in _rows(path, path.suffix.lower()[1:]):
        yield partial(row_atoms, row)


def row_atoms(row: AtomsRow) -> Atoms:
    """Structure of a database row; its key-value pairs and data go to info."""
    atoms = row.toatoms()
    atoms.info.update(row.key_value_pairs)
    atoms.info.update(row.data)
    return atoms


def _rows(path: Path, kind: str) -> Iterator[AtomsRow]:
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
