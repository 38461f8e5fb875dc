"""Reading structures from every kind of file, with faults told by file and frame, and pickles that
cannot run code.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write

from geocalc.errors import InputError
from geocalc.structures.convert import from_atoms
from geocalc.structures.formats.oc20 import oc20_atoms, unpickle
from geocalc.structures.labels import read_labels
from geocalc.structures.readers import (
    LossyFormat,
    Source,
    Unreadable,
    count_structures,
    read_structures,
)

with warnings.catch_warnings():  # torch-geometric uses what torch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.data import Data


def adslab(k: int = 0, sid: str | None = None) -> Atoms:
    atoms = fcc111("Pt", (1, 1, 3), vacuum=6.0)
    add_adsorbate(atoms, "O", 1.3 + 0.01 * k, "ontop")
    atoms.info.clear()
    atoms.set_tags([0, 0, 1, 2])
    atoms.set_constraint(FixAtoms(indices=[0, 1]))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - k, forces=np.full((4, 3), 0.5))
    if sid is not None:
        atoms.info["sid"] = sid
    return atoms


def sources(paths: Any) -> list[Source]:
    found = list(read_structures(paths))
    assert all(isinstance(item, Source) for item in found)
    return found  # type: ignore[return-value]


def assert_kept(source: Source, k: int) -> None:
    """Positions, tags, constraints and raw labels of `adslab(k)`."""
    expected = adslab(k)
    np.testing.assert_allclose(source.atoms.positions, expected.positions, atol=1e-7)
    assert source.atoms.get_tags().tolist() == [0, 0, 1, 2]
    assert from_atoms(source.atoms).fixed.all(dim=1).tolist() == [True, True, False, False]
    found = read_labels(source.atoms)
    assert found.energy == pytest.approx(-1.0 - k)
    assert found.forces is not None
    assert (found.forces == 0.5).all()


@pytest.mark.parametrize("name", ["a.traj", "a.extxyz", "a.xyz", "a.db", "a.json"])
def test_ase_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    structures = [adslab(k) for k in range(3)]
    if name.endswith(("db", "json")):
        with connect(path) as database:
            for atoms in structures:
                database.write(atoms)
    else:
        write(path, structures, format="extxyz" if "xyz" in name else None)
    found = sources(path)
    assert [(s.index, s.path, s.sid) for s in found] == [(k, path, f"{name}#{k}") for k in range(3)]
    for k, source in enumerate(found):
        assert_kept(source, k)


@pytest.mark.parametrize(("ending", "module"), [(".gz", gzip), (".xz", lzma), (".bz2", bz2)])
def test_packed_extxyz(ending: str, module: Any, tmp_path: Path) -> None:
    plain = tmp_path / "a.extxyz"
    write(plain, [adslab(k, sid=f"s{k}") for k in range(3)])
    packed = tmp_path / f"a.extxyz{ending}"
    packed.write_bytes(module.compress(plain.read_bytes()))
    found = sources(str(packed))
    assert [s.sid for s in found] == ["s0", "s1", "s2"]
    assert_kept(found[2], 2)


def test_packed_files_are_never_sought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xyz.gz"
    plain = tmp_path / "a.xyz"
    write(plain, [molecule("H2O")] * 5, format="extxyz")
    path.write_bytes(gzip.compress(plain.read_bytes()))

    def refuse(*_: object) -> int:
        raise AssertionError("sought")

    monkeypatch.setattr(gzip.GzipFile, "seek", refuse)
    assert len(sources(path)) == 5


def test_files_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    write(path, [molecule("H2O")] * 3)
    with path.open("a") as stream:
        stream.write("not a structure\n")
    reader = read_structures(path)
    assert [next(reader).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="where the number of atoms is expected"):
        next(reader)


def test_numeric_sid_becomes_text(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    write(path, adslab(sid="1211"))
    assert sources(path)[0].sid == "1211"


def test_key_value_pairs_and_data_of_a_database(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with connect(path) as database:
        database.write(molecule("CO"), sid="co-1", data={"REF_energy": -3.0})
    assert sources(path)[0].sid == "co-1"
    assert read_labels(sources(path)[0].atoms).energy == -3.0


def test_database_longer_than_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geocalc.structures.formats.ase_database.PAGE", 2)
    path = tmp_path / "a.db"
    with connect(path) as database:
        for k in range(6):
            database.write(Atoms("H", positions=[[k, 0, 0]]))
        database.delete([3])
    assert [s.atoms.positions[0, 0] for s in sources(path)] == [0, 1, 3, 4, 5]


def test_poscar_warns_once_and_keeps_constraints(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "CONTCAR")
        write(paths[-1], adslab(), format="vasp")
    with pytest.warns(LossyFormat, match="POSCAR files hold no tags") as caught:
        found = sources(paths)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [s.sid for s in found] == [f"{path}#0" for path in paths]
    assert found[0].atoms.constraints[0].index.tolist() == [0, 1]


def test_cif_warns(tmp_path: Path) -> None:
    path = tmp_path / "a.cif"
    atoms = adslab()
    atoms.pbc = True
    write(path, atoms)
    with pytest.warns(LossyFormat, match="CIF files hold neither tags nor constraints"):
        found = sources(path)
    assert found[0].atoms.get_chemical_formula() == "OPt3"


def test_folder_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b.traj", "a.extxyz", "c.extxyz"):
        write(tmp_path / name, adslab())
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / ".hidden.xyz").write_text("junk")
    (tmp_path / "deeper.traj").mkdir()
    assert [s.sid for s in sources(tmp_path)] == ["a.extxyz#0", "b.traj#0", "c.extxyz#0"]


def test_missing_file_is_told_before_anything_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", adslab())
    with pytest.raises(InputError, match=r"nothing\.traj does not exist"):
        read_structures([tmp_path / "a.traj", tmp_path / "nothing.traj"])


def test_nothing_given(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no input was given"):
        read_structures([])
    with pytest.raises(InputError, match="holds no structure file"):
        read_structures(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "a.traj",
        "a.extxyz",
        "a.extxyz.gz",
        "a.db",
        "a.json",
        "POSCAR.out",
        "a.lmdb",
        "a.xsf",
    ],
)
@pytest.mark.parametrize("content", [b"", b"this is not a structure\n" * 9])
def test_damaged_file(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossyFormat)
        with pytest.raises(InputError) as caught:
            list(read_structures(path))
        found = list(read_structures(path, tolerant=True))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [(type(item), item.path, item.index) for item in found] == [(Unreadable, path, None)]
    assert isinstance(found[0], Unreadable)
    assert found[0].error == str(caught.value)
    assert found[0].sid == name


def test_one_bad_file_among_many(tmp_path: Path) -> None:
    for name in ("a.traj", "c.extxyz"):
        write(tmp_path / name, adslab())
    (tmp_path / "b.traj").write_bytes((tmp_path / "a.traj").read_bytes()[:200])
    given = [tmp_path / name for name in ("a.traj", "gone.traj", "b.traj", "c.extxyz")]
    found = list(read_structures(given, tolerant=True))
    assert [(item.sid, isinstance(item, Source)) for item in found] == [
        ("a.traj#0", True),
        ("gone.traj", False),
        ("b.traj", False),
        ("c.extxyz#0", True),
    ]


def test_one_bad_frame_among_many(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    write(path, [molecule("H2O")] * 3)
    lines = path.read_text().splitlines()
    lines[7] = lines[7].replace(lines[7].split()[1], "nowhere")
    path.write_text("\n".join(lines) + "\n")
    found = list(read_structures(path, tolerant=True))
    assert [isinstance(item, Source) for item in found] == [True, False, True]
    assert (found[1].index, found[1].sid) == (1, "a.extxyz#1")
    with pytest.raises(InputError, match="cannot read structure 1 of"):
        list(read_structures(path))


def test_file_cut_inside_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    write(path, [molecule("H2O")] * 2)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    found = list(read_structures(path, tolerant=True))
    assert [isinstance(item, Source) for item in found] == [True, False]
    assert isinstance(found[1], Unreadable)
    assert "ends inside frame 1, after 2 of 3 atoms" in found[1].error


def fill(path: Path, records: dict[str, bytes], *, subdir: bool = False) -> Path:
    with (
        lmdb.open(str(path), subdir=subdir, map_size=2**24, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in records.items():
            transaction.put(key.encode(), value)
    return path


def oc20_data(k: int = 0) -> dict[str, Any]:
    atoms = adslab(k)
    return {
        "pos": torch.tensor(atoms.positions, dtype=torch.float32),
        "cell": torch.tensor(atoms.cell.array, dtype=torch.float32)[None],
        "atomic_numbers": torch.tensor(atoms.numbers, dtype=torch.float32),
        "natoms": 4,
        "tags": torch.tensor([0, 0, 1, 2]),
        "fixed": torch.tensor([1.0, 1.0, 0.0, 0.0]),
        "force": torch.full((4, 3), 0.5),
        "y_init": -1.0 - k,
        "y_relaxed": -2.0 - k,
        "pos_relaxed": torch.ones(4, 3),
        "edge_index": torch.zeros(2, 5, dtype=torch.int64),
        "cell_offsets": torch.zeros(5, 3),
        "sid": 1000 + k,
    }


class _OldData:
    """As torch-geometric 1 pickled it: the attributes in `__dict__`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


_OldData.__module__, _OldData.__qualname__, _OldData.__name__ = (
    "torch_geometric.data.data",
    "Data",
    "Data",
)


def old_pickle(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["torch_geometric.data.data"], "Data", _OldData)
        return pickle.dumps(_OldData({"edge_attr": None, **values}), protocol=-1)


@pytest.mark.parametrize("layout", ["old", "new"])
@pytest.mark.parametrize("folder", [True, False])
def test_oc20_lmdb(
    layout: str, folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dump(k: int) -> bytes:
        return (
            old_pickle(oc20_data(k), monkeypatch)
            if layout == "old"
            else pickle.dumps(Data(**oc20_data(k)), protocol=-1)
        )

    records = {str(k): dump(k) for k in range(11)}
    if folder:
        records["length"] = pickle.dumps(11)
    path = fill(tmp_path / "data.lmdb", records, subdir=folder)
    found = sources(path)
    assert [s.sid for s in found] == [str(1000 + k) for k in range(11)]
    for k, source in enumerate(found):
        np.testing.assert_allclose(source.atoms.positions, adslab(k).positions, atol=1e-6)
        found_labels = read_labels(source.atoms)
        assert found_labels.energy == -1.0 - k
        assert found_labels.forces is not None
        assert found_labels.forces.tolist() == [[0.5] * 3] * 4
        assert source.atoms.info["y_relaxed"] == -2.0 - k
        assert source.atoms.arrays["pos_relaxed"].shape == (4, 3)
    systems = from_atoms(found[0].atoms)
    assert systems.tags.tolist() == [0, 0, 1, 2]
    assert systems.fixed.all(dim=1).tolist() == [True, True, False, False]
    assert systems.pbc.all()


def test_s2ef_record() -> None:
    values = {
        key: value for key, value in oc20_data().items() if not key.startswith(("y_", "pos_"))
    }
    atoms = oc20_atoms(pickle.dumps(Data(**values, y=torch.tensor([-3.25]), fid=torch.tensor([7]))))
    assert read_labels(atoms).energy == -3.25
    assert atoms.info["fid"] == 7


def test_shared_and_strided_tensors() -> None:
    values = oc20_data()
    whole = torch.arange(24.0).reshape(4, 6)
    values |= {"pos": whole[:, ::2], "pos_relaxed": whole[:, 3:]}
    atoms = oc20_atoms(pickle.dumps(Data(**values)))
    assert atoms.positions.tolist() == whole[:, ::2].tolist()
    assert atoms.arrays["pos_relaxed"].tolist() == whole[:, 3:].tolist()


@pytest.mark.slow
def test_reading_imports_no_torch_geometric(tmp_path: Path) -> None:
    path = fill(tmp_path / "a.lmdb", {"0": pickle.dumps(Data(**oc20_data()))})
    code = (
        "import sys; from geocalc.structures.readers import read_structures; n ="
        " len(list(read_structures(sys.argv[1])))\nsys.exit(0 if n == 1 and 'torch_geometric' not"
        " in sys.modules else 1)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, str(path)], timeout=120, check=False).returncode
        == 0
    )


class _Calls:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "payload",
    [
        _Calls(os.system, "touch ran"),
        _Calls(eval, "open('ran', 'w')"),
        _Calls(getattr, "text", "format"),
        _Calls(torch.load, "ran"),
        OrderedDict(a=_Calls(exec, "open('ran', 'w')")),
        np.zeros(3),
    ],
    ids=["system", "eval", "getattr", "torch.load", "nested", "numpy"],
)
def test_other_names_are_refused(
    payload: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = {
        str(k): pickle.dumps(Data(**oc20_data(k), extra=payload if k == 1 else 0)) for k in range(3)
    }
    path = fill(tmp_path / "a.lmdb", records)
    found = list(read_structures(path, tolerant=True))
    assert [isinstance(item, Source) for item in found] == [True, False, True]
    assert isinstance(found[1], Unreadable)
    assert "was rejected; no code was executed" in found[1].error
    assert not (tmp_path / "ran").exists()


def test_pickle_inside_a_storage_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(_Calls(os.system, "touch ran"), "inner.pt")
    inner = _Calls(torch.storage._load_from_bytes, Path("inner.pt").read_bytes())
    with pytest.raises(pickle.UnpicklingError):
        unpickle(pickle.dumps(inner))
    assert not (tmp_path / "ran").exists()


def test_tensor_beyond_its_storage_is_refused() -> None:
    function, args = torch.zeros(3).__reduce_ex__(2)
    for offset, size in ((0, (4,)), (2, (2,)), (-1, (2,))):
        with pytest.raises(pickle.UnpicklingError, match="exceeds its storage"):
            unpickle(
                pickle.dumps(_Calls(function, args[0], offset, size, (1,), False, OrderedDict()))
            )


@pytest.mark.parametrize(
    "name",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch_geometric.data.data\nData\n",
        b"ccollections\nOrderedDict\n",
    ],
)
@pytest.mark.parametrize("state", [b"}Vstate\nI1\ns", b"(N}V__call__\nI1\nst"])
def test_records_cannot_change_the_reader(name: bytes, state: bytes) -> None:
    record = pickle.dumps(Data(**oc20_data()))
    before = oc20_atoms(record)
    with contextlib.suppress(pickle.UnpicklingError, TypeError, AttributeError, InputError):
        unpickle(name + state + b"b.")
    after = oc20_atoms(record)
    assert after == before


def test_record_that_is_no_structure() -> None:
    with pytest.raises(InputError, match="expected an OC20 structure with pos and"):
        oc20_atoms(pickle.dumps(Data(x=torch.zeros(3))))
    with pytest.raises(InputError, match="expected a torch-geometric Data"):
        oc20_atoms(pickle.dumps([1, 2]))


def test_lmdb_of_something_else(tmp_path: Path) -> None:
    path = fill(tmp_path / "a.lmdb", {"apple": b"1", "pear": b"2"})
    with pytest.raises(InputError, match="not an LMDB of OC20"):
        list(read_structures(path))


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "gamenet-fg-adsorption/fg_adslab_init.extxyz.gz",
        "oc20-trajectories-sample/oc20_traj.extxyz.gz",
    ],
)
def test_real_data_sets(name: str) -> None:
    root = os.environ.get("GEOCALC_DATA")
    if root is None:
        pytest.skip("GEOCALC_DATA is not set")
    reader = read_structures(Path(root) / name)
    for _ in range(20):
        source = next(reader)
        assert isinstance(source, Source)
        systems = from_atoms(source.atoms, strict=True)
        assert set(systems.tags.tolist()) == {0, 1, 2}
        assert systems.fixed.any()
        assert read_labels(source.atoms).energy is not None


def test_counting_agrees_with_reading(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [adslab(k) for k in range(3)])
    write(tmp_path / "b.traj", [adslab(k) for k in range(2)])
    (tmp_path / "c.xyz").write_text("5\ncut\n")
    (tmp_path / "d.extxyz").write_text("")
    for name in ("a.extxyz", "b.traj", "c.xyz", "d.extxyz", "none.traj", ""):
        path = tmp_path / name
        assert count_structures([path]) == len(list(read_structures(path, tolerant=True)))
    assert count_structures([tmp_path / "a.extxyz"], patience=-1.0) is None


def test_an_unexpected_exception_is_logged_and_the_other_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str) -> Atoms:
        raise AttributeError("a fault of ours")

    write(tmp_path / "a.traj", molecule("H2O"))
    write(tmp_path / "b.extxyz", molecule("H2O"))
    monkeypatch.setattr("geocalc.structures.formats.xyz._atoms", broken)
    found = list(read_structures([tmp_path / "b.extxyz", tmp_path / "a.traj"], tolerant=True))
    assert [isinstance(one, Source) for one in found] == [False, True]
    assert isinstance(found[0], Unreadable)
    assert "AttributeError a fault of ours" in found[0].error
    assert "unexpected error while reading structure 0" in caplog.text
    assert "Traceback" in caplog.text


def test_a_damaged_file_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "b.extxyz").write_text("2\nbroken\n")
    assert isinstance(next(read_structures(tmp_path / "b.extxyz", tolerant=True)), Unreadable)
    assert caplog.records == []
