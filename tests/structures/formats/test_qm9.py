"""QM9 as torch-geometric stores it, with a stand-in of its processed file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read
from helpers.training import recipe_values
from torch_geometric.data import Data, InMemoryDataset

from geocalc.data.prepare import prepare_store
from geocalc.data.store import read_store
from geocalc.errors import InputError, MissingDependencyError
from geocalc.structures.formats.qm9 import qm9_molecules, write_qm9
from geocalc.train.recipe import parse_recipe

MOLECULES = [
    molecule(name) for name in ("CH4", "NH3", "H2O", "C2H2", "HCN", "H2CO", "C2H6", "CH3OH")
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that torch-geometric might have written: column k of the targets of molecule i is
    100 i + k.
    """
    folder = tmp_path / "QM9"
    (folder / "processed").mkdir(parents=True)
    data = [
        Data(
            z=torch.tensor(atoms.numbers),
            pos=torch.tensor(atoms.positions, dtype=torch.float32),
            y=100.0 * k + torch.arange(19.0)[None],
            name=f"gdb_{k + 1}",
            idx=k,
        )
        for k, atoms in enumerate(MOLECULES)
    ]
    InMemoryDataset.save(data, str(folder / "processed" / "data_v3.pt"))
    return folder


def test_molecules_and_their_energy(root: Path) -> None:
    found = list(qm9_molecules(root, 4, 2))
    assert [f.info["sid"] for f in found] == [f"gdb_{k}" for k in range(1, 9)]
    for k, (one, atoms) in enumerate(zip(found, MOLECULES, strict=True)):
        assert one.info["REF_energy"] == 100.0 * k + 7
        np.testing.assert_array_equal(one.numbers, atoms.numbers)
        np.testing.assert_allclose(one.positions, atoms.positions, atol=1e-6)


def test_the_split_is_a_permutation_cut_in_three(root: Path) -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(123)).tolist()
    parts = [f.info["split"] for f in qm9_molecules(root, 4, 2)]
    assert [parts[k] for k in order] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2


def test_a_recipe_reads_the_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qm9_molecules, "__defaults__", (4, 2))
    path = tmp_path / "qm9.extxyz"
    assert write_qm9(root, path) == 8
    assert [isinstance(atoms, Atoms) and atoms.info["split"] for atoms in read(path, ":")] == [
        f.info["split"] for f in qm9_molecules(root)
    ]
    values = recipe_values(path, force_weight=0.0)
    values["model"] |= {"force_mode": "none", "reads_tags": False}
    values["data"] |= {"validation_key": "split", "validation_values": ["validation"]}
    values["data"]["sources"][0] |= {"exclude_key": "split", "exclude_groups": ["test"]}
    samples = read_store(prepare_store(parse_recipe(values, "test"), tmp_path / "data"))
    assert (len(samples.training), len(samples.held_out)) == (4, 2)
    wanted = {
        f.info["sid"]: f.info["REF_energy"]
        for f in qm9_molecules(root)
        if f.info["split"] != "test"
    }
    assert {s.group: s.energy for s in samples} == wanted


def test_what_is_not_there_or_is_something_else(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got 8 molecules, expected more than 110000"):
        list(qm9_molecules(root))
    with pytest.raises(
        InputError,
        match=r"create it with torch_geometric.datasets.QM9\('.*nowhere'\) on a machine",
    ):
        list(qm9_molecules(tmp_path / "nowhere"))
    file = root / "processed" / "data_v3.pt"
    torch.save(({"x": torch.zeros(3)}, {}), file)
    with pytest.raises(
        InputError,
        match=r"data_v3.pt contains x; expected z, pos and 19 targets of each molecule",
    ):
        list(qm9_molecules(root, 4, 2))
    torch.save((Path("code"), {}), file)
    with pytest.raises(InputError, match=r"data_v3.pt cannot be read \("):
        list(qm9_molecules(root, 4, 2))


def test_without_torch_geometric(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(
        MissingDependencyError,
        match="QM9 needs torch-geometric; install it with: pip install torch-geometric",
    ):
        list(qm9_molecules(root, 4, 2))
