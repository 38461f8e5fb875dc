"""LMDBs of OC20 as sources of recipes: frames with forces, and pairs inside one record."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from helpers.structures import adslab, rattled
from helpers.training import TINY, cpu_fabric, recipe_values
from torch_geometric.data import Data

from geocalc.data.pairs import relaxed_pairs
from geocalc.data.prepare import prepare_store
from geocalc.data.settings import DataSource
from geocalc.data.store import Sample, read_store
from geocalc.errors import InputError
from geocalc.train.recipe import parse_recipe
from geocalc.train.task import train


def record(k: int, **further: Any) -> Data:
    """An unrelaxed slab with O on it as OC20 stores it."""
    atoms = rattled(adslab("O", "fcc", size=(2, 2, 3)), 0.03, k)
    tags = torch.tensor(atoms.get_tags())
    return Data(
        pos=torch.tensor(atoms.positions, dtype=torch.float32),
        cell=torch.tensor(atoms.cell.array, dtype=torch.float32)[None],
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.float32),
        natoms=len(atoms),
        tags=tags,
        fixed=(tags == 0).float(),
        sid=100 + k,
        **further,
    )


def pair(k: int) -> Data:
    """A record of is2re: 0.1 Angstrom up and across the boundary of the cell."""
    data = record(k, y_init=5.0 + k, y_relaxed=-1.0 - k)
    moved = data.pos + torch.tensor([0.0, 0.0, 0.1]) * (data.tags > 0)[:, None]
    data.pos_relaxed = moved + data.cell[0, 0] * (data.tags == 2)[:, None]
    return data


def write_lmdb(path: Path, records: list[Data]) -> Path:
    with (
        lmdb.open(str(path), subdir=False, map_size=2**24, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for k, data in enumerate(records):
            transaction.put(f"{k}".encode(), pickle.dumps(data, protocol=-1))
        transaction.put(b"length", pickle.dumps(len(records)))
    return path


def pair_values(path: Path, **training: Any) -> dict[str, Any]:
    values = recipe_values(path, **{"force_weight": 0.0, "displacement_weight": 0.5, **training})
    values["task"] = "is2re"
    values["data"]["sources"][0]["relaxed"] = str(path)
    values["model"] |= {"settings": {**TINY, "direct_forces": True}, "force_mode": "none"}
    return values


def samples_of(values: dict[str, Any], folder: Path) -> list[Sample]:
    return list(read_store(prepare_store(parse_recipe(values, "test"), folder / "data")))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_lmdb(tmp_path / "is2re.lmdb", [pair(k) for k in range(12)])


def test_a_record_of_is2re_is_a_pair(pairs: Path, tmp_path: Path) -> None:
    samples = samples_of(pair_values(pairs), tmp_path)
    assert [s.group for s in samples] == [str(100 + k) for k in range(12)]
    # relaxed, not that of the structure as it came
    assert [s.energy for s in samples] == [-1.0 - k for k in range(12)]
    for k, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.positions, record(k).pos.numpy().astype(float))
        move = sample.relaxed - sample.positions
        assert np.abs(move[sample.tags > 0] - (0.0, 0.0, 0.1)).max() < 1e-5
        assert np.abs(move[sample.tags == 0]).max() < 1e-5
        assert np.isnan(sample.forces).all()
        assert sample.fixed.all(1).tolist() == (sample.tags == 0).tolist()


def test_pairs_may_be_named_in_two_ways(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pairs.parent)
    for one, other in ((pairs, Path("is2re.lmdb")), (Path("is2re.lmdb"), Path("./is2re.lmdb"))):
        ((_, (first,)), *_) = relaxed_pairs(DataSource(path=one, relaxed=other), Counter())
        assert first.energy == -1.0


def test_pairs_train(pairs: Path, tmp_path: Path) -> None:
    run = train(
        parse_recipe(pair_values(pairs, steps=4), "test"),
        tmp_path / "run",
        tmp_path / "data",
        cpu_fabric(),
    )
    assert "position_mae" in (run / "metrics.json").read_text()


@pytest.mark.parametrize("missing", ["pos_relaxed", "y_relaxed"])
def test_a_record_that_is_no_pair_is_named(missing: str, tmp_path: Path) -> None:
    records = [pair(k) for k in range(3)]
    delattr(records[1], missing)
    path = write_lmdb(tmp_path / "is2re.lmdb", records)
    with pytest.raises(
        InputError,
        match=r"structure 1 of .*is2re.lmdb: the record has no pos_relaxed and y_relaxed",
    ):
        list(relaxed_pairs(DataSource(path=path, relaxed=path), Counter()))


def test_frames_of_s2ef(tmp_path: Path) -> None:
    """Frames of several relaxations in any order: those of one relaxation fall on one side."""
    frames = []
    for number, k in enumerate((0, 1, 2, 0, 3, 1, 2, 4, 5, 0, 6, 7)):
        force = torch.full((13, 3), 0.1 * (number + 1))
        data = record(
            k, y=torch.tensor([-3.0 - number], dtype=torch.float64), force=force, fid=number
        )
        frames.append(data)
    path = write_lmdb(tmp_path / "s2ef.lmdb", frames)
    samples = samples_of(recipe_values(path), tmp_path)
    assert [s.energy for s in samples] == [-3.0 - number for number in range(12)]
    for number, sample in enumerate(samples):
        np.testing.assert_allclose(sample.forces, 0.1 * (number + 1), rtol=1e-6)
    sides: dict[str, set[bool]] = {}
    for sample in samples:
        sides.setdefault(sample.group, set()).add(sample.validation)
    assert sorted(sides) == [str(100 + k) for k in range(8)]
    assert all(len(side) == 1 for side in sides.values())
    assert {True} in sides.values()
