"""Prepared samples stay on the disk."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.training import make_recipe, relaxation, relaxations, write_data

from geocalc.data import store as store_module
from geocalc.data.collate import collate_samples
from geocalc.data.prepare import prepare_store, samples_of_file
from geocalc.data.store import SIZE_CUTOFF, Sample, Samples, build_index, read_store, write_store
from geocalc.errors import InputError
from geocalc.graphs.neighbors import build_graph


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Samples:
    folder = tmp_path_factory.mktemp("store")
    return read_store(
        prepare_store(make_recipe(write_data(folder / "d.traj", relaxations(6))), folder / "data")
    )


def names(some) -> list[tuple[str, int]]:
    return [(sample.group, sample.image) for sample in some]


def test_samples_are_read_only_when_they_are_asked_for(samples, monkeypatch):
    read = []
    unpack = store_module._unpack
    monkeypatch.setattr(store_module, "_unpack", lambda value: read.append(1) or unpack(value))
    again = read_store(samples._path)
    assert len(again.training) + len(again.held_out) == len(again) == 18
    assert len(again[2:9]) == 7
    assert not read
    assert names(again.read([4, 2, 4])) == [("r1", 1), ("r0", 2), ("r1", 1)]
    assert len(read) == 3
    assert names([again[-1]]) == [("r5", 2)]
    assert len(read) == 4


def test_a_part_is_what_a_list_would_be(samples):
    whole = list(samples)
    assert names(samples[3:11][::2]) == names(whole[3:11][::2])
    assert names(samples.held_out) == names([s for s in whole if s.validation])
    assert names(samples.training) == names([s for s in whole if not s.validation])
    assert names(reversed(samples)) == names(reversed(whole))
    assert names(pickle.loads(pickle.dumps(samples.held_out))) == names(samples.held_out)
    with pytest.raises(IndexError):
        samples[18]


@pytest.mark.slow
def test_going_through_all_samples_takes_the_memory_of_a_few(tmp_path):
    (sample,) = samples_of_file(write_data(tmp_path / "d.traj", relaxation("r", n_frames=1)))
    big = replace(sample, forces=np.zeros((2000, 3)))  # 48 kB, whatever it means
    write_store(tmp_path / "d.lmdb", (replace(big, image=k) for k in range(1000)), "key", {})
    some = read_store(tmp_path / "d.lmdb")
    tracemalloc.start()
    assert sum(len(one.forces) for one in some) == 2_000_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 0.6 * 48e6


def test_the_index_knows_relaxations_and_edges(samples):
    known = build_index(
        [replace(sample, source=1 if sample.group == "r3" else 0) for sample in samples]
    )
    assert known.relaxation.tolist() == [k for k in range(6) for _ in range(3)]
    assert known.source.tolist() == [0] * 9 + [1] * 3 + [0] * 6
    assert known.validation.tolist() == [sample.validation for sample in samples]
    assert known.n_edges.tolist() == samples.sample_index.n_edges.tolist()
    for sample, n_edges in zip(samples, known.n_edges, strict=True):
        assert build_graph(collate_samples([sample])[0], SIZE_CUTOFF).n_edges == n_edges


def test_a_structure_without_neighbor_list_is_named(samples):
    flat: Sample = replace(samples[4], cell=np.zeros((3, 3)), pbc=np.array([True, True, True]))
    with pytest.raises(InputError, match=r"^image 1 of relaxation r1: lattice vector a is zero"):
        build_index([flat])


def test_a_store_that_is_gone_or_cut_is_one_sentence(samples, tmp_path):
    with pytest.raises(
        InputError, match=r"cannot read the prepared data .* delete the file to prepare it again"
    ):
        read_store(tmp_path / "none.lmdb")
    copy = tmp_path / "copy.lmdb"
    copy.write_bytes(Path(samples._path).read_bytes())
    some = read_store(copy)
    copy.unlink()
    with pytest.raises(InputError, match="use --resume to prepare them again"):
        some.read([0])


def test_two_that_prepare_the_same_data_at_once_do_not_meet(tmp_path):
    (sample,) = samples_of_file(write_data(tmp_path / "d.traj", relaxation("r", n_frames=1)))
    path = tmp_path / "d.lmdb"

    def slow():
        for k in range(3):
            if k == 2:  # another one begins and ends meanwhile
                write_store(path, (replace(sample, image=n) for n in range(3)), "key", {})
                assert len(read_store(path)) == 3
            yield replace(sample, image=k)

    write_store(path, slow(), "key", {})
    assert [one.image for one in read_store(path)] == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir() if "lmdb" in file.name] == ["d.lmdb"]
