"""What a step learns from does not depend on who prepares it, or into how many parts it is cut."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from helpers.structures import adslab, rattled
from helpers.training import (
    assert_equal_to_rounding,
    cpu_fabric,
    in_double,
    labeled,
    make_recipe,
    relaxation,
    weights_after,
    write_data,
)

from geocalc.data.prepare import prepare_store
from geocalc.data.store import Samples, read_store
from geocalc.errors import InputError, RunFolderError
from geocalc.train.balance import deal
from geocalc.train.loader import Batch, BatchLoader, batch_loader, batches
from geocalc.train.run import start_training
from geocalc.train.steps import update
from geocalc.train.task import train

# more workers than cores
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Slabs of nine and of thirty-three atoms, and small bulk cells."""
    frames = [frame for k in range(6) for frame in relaxation(f"r{k}", seed=k)]
    for k in range(6):
        frames.append(
            labeled(rattled(adslab("O", "fcc", size=(3, 3, 4)), 0.05, k), sid=f"large{k}")
        )
        frames.append(labeled(rattled(bulk("Cu", cubic=True), 0.05, k), sid=f"bulk{k}"))
    return write_data(tmp_path_factory.mktemp("mixed") / "d.traj", frames)


def feed_for(data: Path, folder: Path, **training) -> BatchLoader:
    recipe = make_recipe(data, **training)
    samples = read_store(prepare_store(recipe, folder))
    return batch_loader(
        samples, recipe, start_training(recipe, samples.training).model, cpu_fabric()
    )


def assert_same(one: Batch, other: Batch) -> None:
    """Bit for bit."""
    for a, b in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def tensors(batch: Batch) -> list[torch.Tensor]:
    parts = [getattr(part, name) for part in batch for name in ("systems", "labels", "graph")]
    found = [getattr(part, f.name) for part in parts for f in fields(part)]
    return [value for value in found if isinstance(value, torch.Tensor)] + [
        part.draws for part in batch
    ]


# micro-batches


@pytest.mark.slow
@pytest.mark.parametrize("cut", [{"accumulate": 4}, {"max_edges": 500}])
@pytest.mark.parametrize("task", [{}, {"substrate_weight": 0.5, "frames": "rotations-2d"}])
def test_micro_batches_learn_what_the_whole_batch_does(tmp_path, data, task, cut):
    whole, losses = weights_after(make_recipe(data, batch_size=8, **task), tmp_path, 6)
    parts, found = weights_after(make_recipe(data, batch_size=8, **task, **cut), tmp_path, 6)
    assert found == pytest.approx(losses, abs=1e-9)
    assert_equal_to_rounding(whole, parts)


def test_a_batch_is_cut_by_count_and_by_edges(tmp_path, data):
    (whole,) = feed_for(data, tmp_path, batch_size=8).batch(0)
    four = feed_for(data, tmp_path, batch_size=8, accumulate=4).batch(0)
    assert len(four) == 4
    assert sum(part.systems.n_systems for part in four) == 8
    assert sum(part.graph.n_edges for part in four) == whole.graph.n_edges
    limit = 700
    within = feed_for(data, tmp_path, batch_size=8, max_edges=limit).batch(0)
    assert len(within) > 1
    assert all(part.graph.n_edges <= limit or part.systems.n_systems == 1 for part in within)
    assert len(feed_for(data, tmp_path, batch_size=2, accumulate=2).batch(0)) == 2


# processes


class Rank:
    """One of several processes, as a thread: what fabric does for a step."""

    device = torch.device("cpu")

    def __init__(self, rank: int, n: int, meeting: threading.Barrier, table: list) -> None:
        self.global_rank, self.world_size, self._meeting, self._table = rank, n, meeting, table
        self.autocast = cpu_fabric().autocast

    def all_reduce(self, values: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "mean"
        self._table[self.global_rank] = values
        self._meeting.wait(60)
        mean = torch.stack(self._table).mean(0)
        self._meeting.wait(60)
        return mean


def weights_of_two(recipe, folder: Path, steps: int) -> dict[str, torch.Tensor]:
    """Weights after some steps that two processes share."""
    meeting, table, found = threading.Barrier(2), [None, None], {}
    begun = [in_double(recipe, folder) for _ in range(2)]

    def work(rank: int) -> None:
        (run, samples), one = begun[rank], Rank(rank, 2, meeting, table)
        loader = batch_loader(samples, recipe, run.model, one)
        for step in range(steps):
            update(run, loader.batch(step), recipe, step, one)
        found[rank] = dict(run.model.network.state_dict())

    threads = [threading.Thread(target=partial(work, rank)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"balance_by_edges": False},
        {"balance_by_edges": True},
        {"balance_by_edges": True, "accumulate": 2},
    ],
)
def test_two_processes_learn_what_one_does(tmp_path, data, settings):
    recipe = make_recipe(data, batch_size=7, **settings)
    whole, _ = weights_after(make_recipe(data, batch_size=7), tmp_path, 4)
    assert_equal_to_rounding(whole, weights_of_two(recipe, tmp_path, 4))


def test_balanced_processes_have_about_equal_edges(tmp_path, data):
    loader = feed_for(data, tmp_path, batch_size=8)
    unequal = {}
    for balance in (True, False):
        recipe = make_recipe(data, batch_size=8, balance_by_edges=balance)
        shares = [replace(loader, recipe=recipe, rank=rank, n_processes=2) for rank in range(2)]
        edges = np.array(
            [
                [part.graph.n_edges for share in shares for part in share.batch(step)]
                for step in range(12)
            ]
        )
        unequal[balance] = (edges.max(1) / edges.mean(1)).mean()
    assert unequal[True] < 1.12
    assert unequal[True] < 1 + 0.5 * (unequal[False] - 1)


def test_every_process_finds_the_order_of_the_draw(tmp_path, data):
    loader = feed_for(data, tmp_path, batch_size=8)
    sizes = loader.samples.sample_index.n_edges[loader.schedule.batch(3)].tolist()
    for rank, places in enumerate(deal(sizes, 2)):
        (part,) = replace(loader, rank=rank, n_processes=2).batch(3)
        (whole,) = loader.batch(3)
        assert torch.equal(part.draws, whole.draws[places])
        assert torch.equal(part.labels.energy, whole.labels.energy[places])


# workers


def test_workers_prepare_the_same_batches(tmp_path, data):
    loader = feed_for(data, tmp_path, accumulate=2)
    alone, ahead = (list(batches(loader, range(3, 9), workers)) for workers in (0, 2))
    assert [step for step, _ in ahead] == [step for step, _ in alone] == list(range(3, 9))
    for (_, one), (_, other) in zip(alone, ahead, strict=True):
        assert_same(one, other)


def test_a_feed_can_be_sent_to_another_process(tmp_path, data):
    loader = feed_for(data, tmp_path)
    again = pickle.loads(pickle.dumps(loader))
    assert_same(loader.batch(5), again.batch(5))


@pytest.mark.slow
def test_a_run_with_workers_stopped_and_resumed_is_the_run_without(tmp_path, data):
    alone = train(make_recipe(data, steps=6), tmp_path / "alone", tmp_path / "data", cpu_fabric())
    ahead = tmp_path / "ahead"
    for steps in (3, 6):
        train(
            make_recipe(
                data,
                steps=6,
                workers=2,
                **({"max_seconds": 1e-9, "checkpoint_every": 3} if steps == 3 else {}),
            ),
            ahead,
            tmp_path / "data",
            cpu_fabric(),
        )
    files = [next((folder / "checkpoint").glob("state-*.safetensors")) for folder in (alone, ahead)]
    assert files[0].name == files[1].name == "state-6.safetensors"
    assert files[0].read_bytes() == files[1].read_bytes()


class Refusing(Samples):
    """Samples of which none can be used."""

    def read(self, places):
        raise InputError("this structure has no adsorbate")


class Dying(Samples):
    """Samples that end the process that reads them."""

    def read(self, places):
        os.kill(os.getpid(), signal.SIGKILL)


def in_place(loader: BatchLoader, kind: type[Samples]) -> BatchLoader:
    samples = loader.samples
    return replace(loader, samples=kind(samples._path, samples._numbers, samples.sample_index))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_structure_is_one_sentence(tmp_path, data, workers):
    loader = in_place(feed_for(data, tmp_path), Refusing)
    with pytest.raises(InputError, match=r"^this structure has no adsorbate$"):
        next(batches(loader, range(2), workers))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_sentence(tmp_path, data):
    loader = in_place(feed_for(data, tmp_path), Dying)
    with pytest.raises(
        RunFolderError,
        match=r"a process that prepares batches died .* with fewer training.workers",
    ):
        next(batches(loader, range(2), 1))
