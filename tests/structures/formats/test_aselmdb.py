"""`.aselmdb` files, written here as fairchem's documentation of the layout says."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io.jsonio import encode

from geocalc.errors import InputError
from geocalc.structures.convert import from_atoms
from geocalc.structures.labels import read_labels
from geocalc.structures.readers import Source, Unreadable, count_structures, read_structures


def slab(k: int) -> Atoms:
    """A slab with an adsorbed atom, a fixed layer, and forces on the fixed atoms too."""
    atoms = fcc111("Cu", (1, 1, 3), vacuum=6.0)
    atoms += Atoms("O", positions=[atoms.positions[-1] + (0.0, 0.0, 1.3 + 0.01 * k)])
    atoms.set_tags([0, 0, 1, 2])
    atoms.pbc = (True, True, False)
    atoms.set_constraint([FixAtoms([0, 1]), FixCartesian([2], mask=(True, False, False))])
    forces = np.arange(12.0).reshape(4, 3) + 0.25 * (k + 1)
    stress = [0.1, 0.2, 0.3, 0.0, 0.0, 0.1 * k]
    atoms.calc = SinglePointCalculator(atoms, energy=-2.5 - k, forces=forces, stress=stress)
    return atoms


def fields(atoms: Atoms, **more: Any) -> dict[str, Any]:
    """Fields of an ASE database row."""
    return {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "tags": atoms.get_tags(),
        "constraints": [constraint.todict() for constraint in atoms.constraints],
        **{name: atoms.calc.results[name] for name in ("energy", "forces", "stress")},
        "calculator": "unknown",
        "calculator_parameters": {},
        "key_value_pairs": {},
        "data": {},
        "ctime": 24.5,
        "mtime": 24.5,
        "user": "",
        "unique_id": "",
        **more,
    }


def as_lists(row: dict[str, Any]) -> bytes:
    """A row as newer files have it: arrays as plain lists."""
    return zlib.compress(json.dumps(row, default=_list).encode())


def as_ndarrays(row: dict[str, Any]) -> bytes:
    """A row as older files have it: arrays in ASE's encoding."""
    return zlib.compress(encode(row).encode())


def _list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value.todict()


def write_file(path: Path, rows: dict[int, bytes], deleted: Iterable[int] = ()) -> Path:
    """An `.aselmdb` file with these rows."""
    special = {
        "nextid": max((*rows, *deleted)) + 1,
        "deleted_ids": list(deleted),
        "metadata": {"format": "test"},
    }
    stored = {str(k): row for k, row in rows.items()} | {
        key: zlib.compress(json.dumps(value).encode()) for key, value in special.items()
    }
    return write_lmdb(path, stored)


def write_lmdb(path: Path, values: dict[str, bytes]) -> Path:
    with (
        lmdb.open(str(path), subdir=False, map_size=2**24, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return path


def sources(path: Path) -> list[Source]:
    found = list(read_structures(path))
    assert all(isinstance(item, Source) for item in found)
    return found


@pytest.mark.parametrize("stored", [as_lists, as_ndarrays])
def test_all_that_a_relaxation_needs_is_read(stored: Any, tmp_path: Path) -> None:
    rows = {k: stored(fields(slab(k))) for k in (1, 2, 4, 11)}
    path = write_file(tmp_path / "a.aselmdb", rows, deleted=[*range(5, 11), 3])
    found = sources(path)
    assert [source.sid for source in found] == [f"a.aselmdb#{k}" for k in range(4)]
    assert count_structures([path]) == 4
    for k, source in zip((1, 2, 4, 11), found, strict=True):
        expected, atoms = slab(k), source.atoms
        assert atoms.numbers.tolist() == expected.numbers.tolist()
        assert atoms.get_tags().tolist() == [0, 0, 1, 2]
        assert atoms.pbc.tolist() == [True, True, False]
        np.testing.assert_array_equal(atoms.positions, expected.positions)
        np.testing.assert_array_equal(atoms.cell.array, expected.cell.array)
        for name in ("energy", "forces", "stress"):
            np.testing.assert_array_equal(
                atoms.calc.results[name], expected.calc.results[name], err_msg=name
            )
        np.testing.assert_array_equal(read_labels(atoms).forces, expected.calc.results["forces"])
        systems = from_atoms(atoms)
        assert systems.fixed.tolist() == [[True] * 3] * 2 + [[True, False, False], [False] * 3]


@pytest.mark.parametrize("stored", [as_lists, as_ndarrays])
def test_pairs_and_data_go_to_info(stored: Any, tmp_path: Path) -> None:
    row = stored(
        fields(slab(1), key_value_pairs={"sid": "s7", "converged": True}, data={"charge": -1})
    )
    (source,) = sources(write_file(tmp_path / "a.aselmdb", {1: row}))
    assert source.sid == "s7"
    assert source.atoms.info == {"sid": "s7", "converged": True, "charge": -1}


def test_rows_may_lack_what_no_structure_needs(tmp_path: Path) -> None:
    copper = bulk("Cu")
    row = {"numbers": copper.numbers, "positions": copper.positions}
    molecule, crystal = sources(
        write_file(
            tmp_path / "a.aselmdb",
            {1: as_lists(row), 2: as_lists(row | {"cell": copper.cell.array, "pbc": [True] * 3})},
        )
    )
    assert not molecule.atoms.pbc.any()
    assert crystal.atoms.pbc.all()
    assert crystal.atoms.calc is None
    np.testing.assert_array_equal(crystal.atoms.cell.array, copper.cell.array)


def test_files_in_a_folder_are_found(tmp_path: Path) -> None:
    for name in ("data0001.aselmdb", "data0000.aselmdb"):
        write_file(tmp_path / name, {1: as_lists(fields(slab(1)))})
    assert [source.path.name for source in sources(tmp_path)] == [
        "data0000.aselmdb",
        "data0001.aselmdb",
    ]


class Touch:
    """A pickle of it makes a file."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (None, "there is no row 2; a part of the file is missing"),
        (b"not compressed", "a value is not JSON compressed by zlib"),
        (zlib.compress(b"{broken"), "a value is not JSON compressed by zlib"),
        (zlib.compress(b"[1, 2]"), "row 2 has no numbers and positions"),
        (as_lists({"numbers": [1]}), "row 2 has no numbers and positions"),
        (as_lists({"numbers": [1, 8], "positions": [[0, 0, 0]]}), "ValueError"),
        (pickle.dumps(Touch()), "a value is not JSON compressed by zlib"),
        (zlib.compress(pickle.dumps(Touch())), "a value is not JSON compressed by zlib"),
    ],
    ids=["missing", "raw", "broken", "list", "half", "shapes", "pickle", "compressed pickle"],
)
def test_a_damaged_row_is_one_sentence_and_the_others_are_read(
    row: bytes | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {k: as_lists(fields(slab(k))) for k in (1, 3)} | ({2: row} if row else {})
    path = write_file(tmp_path / "a.aselmdb", rows)
    found = list(read_structures(path, tolerant=True))
    assert [type(item) for item in found] == [Source, Unreadable, Source]
    assert sentence in found[1].error
    assert found[1].error.startswith(f"cannot read structure 1 of {path}: ")
    assert "\n" not in found[1].error
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="cannot read structure 1"):
        list(read_structures(path))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"0": b"x"}, "it has no key nextid"),
        ({"nextid": zlib.compress(b'"a"')}, "nextid and deleted_ids hold numbers of rows, got a"),
        ({"nextid": pickle.dumps(3)}, "a value is not JSON compressed by zlib"),
    ],
    ids=["other layout", "no number", "pickle"],
)
def test_a_file_of_another_kind_is_one_sentence(
    values: dict[str, bytes], sentence: str, tmp_path: Path
) -> None:
    path = write_lmdb(tmp_path / "a.aselmdb", values)
    with pytest.raises(InputError) as caught:
        list(read_structures(path))
    assert str(caught.value).startswith(f"cannot read {path}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"this is not a structure\n" * 9])
def test_a_file_that_is_no_lmdb_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.aselmdb"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.aselmdb") as caught:
        list(read_structures(path))
    assert "\n" not in str(caught.value)
