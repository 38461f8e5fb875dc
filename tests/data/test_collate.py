from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import recipe_values

from geocalc.data.collate import collate_samples
from geocalc.data.store import Sample, build_index
from geocalc.train.recipe import Recipe
from geocalc.train.schedule import Schedule


def sample(
    group: str, frame: int, source: int = 0, validation: bool = False, n_atoms: int = 2
) -> Sample:
    rng = np.random.default_rng((int(group), frame, source))
    return Sample(
        numbers=np.full(n_atoms, 29),
        tags=np.arange(n_atoms) % 3,
        positions=rng.normal(size=(n_atoms, 3)),
        forces=rng.normal(size=(n_atoms, 3)),
        relaxed=rng.normal(size=(n_atoms, 3)),
        fixed=np.zeros((n_atoms, 3), dtype=bool),
        cell=np.eye(3) * 5,
        pbc=np.array([True, True, False]),
        energy=float(frame),
        group=group,
        image=frame,
        source=source,
        validation=validation,
    )


def samples(n_groups: int, n_frames: int, source: int = 0) -> list[Sample]:
    return [sample(str(g), k, source) for g in range(n_groups) for k in range(n_frames)]


def recipe_of(
    batch_size: int = 4, frames: int = 3, weights: tuple[float, ...] = (1.0,), seed: int = 0
) -> Recipe:
    values = recipe_values(Path("d"), batch_size=batch_size, seed=seed)
    values["data"] |= {
        "images_per_group": frames,
        "sources": [{"path": f"d{k}", "weight": w} for k, w in enumerate(weights)],
    }
    return Recipe.parse(values, "test")


def epoch(given: list[Sample], recipe: Recipe, number: int = 0) -> list[Sample]:
    schedule = Schedule(build_index(given), recipe)
    n = schedule.batches_per_epoch
    return [given[i] for step in range(number * n, (number + 1) * n) for i in schedule.batch(step)]


def test_a_batch_is_a_function_of_seed_and_step_alone():
    given, recipe = samples(12, 5), recipe_of()
    straight = Schedule(build_index(given), recipe)
    steps = list(range(3 * straight.batches_per_epoch))
    batches = [straight.batch(step) for step in steps]
    again = Schedule(build_index(given), recipe)
    assert {step: again.batch(step) for step in reversed(steps)} == dict(
        zip(steps, batches, strict=True)
    )
    other = Schedule(build_index(given), recipe_of(seed=1))
    assert [other.batch(step) for step in steps] != batches
    assert (
        batches[: straight.batches_per_epoch]
        != batches[straight.batches_per_epoch : 2 * straight.batches_per_epoch]
    )


def test_an_epoch_draws_first_last_and_others_of_each_relaxation():
    given, recipe = samples(8, 10), recipe_of(frames=4)
    seen = set()
    for number in range(6):
        drawn = epoch(given, recipe, number)
        by_group: dict[str, list[int]] = {}
        for one in drawn:
            by_group.setdefault(one.group, []).append(one.image)
        assert len(by_group) == 8
        for frames in by_group.values():
            assert len(frames) == len(set(frames)) == 4
            assert {0, 9} <= set(frames)
            seen |= set(frames)
    assert seen == set(range(10))


def test_short_relaxations_are_taken_whole():
    drawn = epoch(samples(8, 2), recipe_of(frames=4))
    assert Counter((s.group, s.image) for s in drawn) == Counter(
        (str(g), k) for g in range(8) for k in range(2)
    )


@pytest.mark.parametrize("frames", [1, 2])
def test_few_frames_per_relaxation(frames):
    drawn = epoch(samples(8, 5), recipe_of(frames=frames))
    assert {s.image for s in drawn} == ({0} if frames == 1 else {0, 4})


def test_held_out_samples_are_never_drawn():
    given = [replace(s, validation=int(s.group) % 3 == 0) for s in samples(12, 3)]
    schedule = Schedule(build_index(given), recipe_of())
    drawn = {i for step in range(10 * schedule.batches_per_epoch) for i in schedule.batch(step)}
    assert not any(given[i].validation for i in drawn)
    assert drawn == {i for i, s in enumerate(given) if not s.validation}


@pytest.mark.slow
def test_source_weights_repeat_and_thin_out_relaxations():
    given = samples(20, 3, 0) + samples(20, 3, 1)
    recipe = recipe_of(weights=(2.0, 0.25))
    counts: Counter[int] = Counter()
    for number in range(20):
        counts.update(s.source for s in epoch(given, recipe, number))
    assert counts[0] / counts[1] == pytest.approx(8, rel=0.25)
    assert Schedule(build_index(given), recipe).batches_per_epoch == (20 * 3 * 2 + 20 * 3 // 4) // 4


def test_an_epoch_that_thins_out_everything_still_draws_from_the_training_split():
    given = [replace(sample("0", 0), validation=True), *samples(1, 3)]
    schedule = Schedule(build_index(given), recipe_of(weights=(0.01,), batch_size=2))
    drawn = {i for step in range(30) for i in schedule.batch(step)}
    assert drawn <= {1, 2, 3}
    assert drawn


def test_a_batch_larger_than_the_data_is_filled_from_its_start():
    given = samples(1, 3)
    batch = Schedule(build_index(given), recipe_of(batch_size=8)).batch(0)
    assert len(batch) == 8
    assert set(batch) == {0, 1, 2}
    assert batch[:3] == batch[3:6]


def test_collate_keeps_every_array_in_order():
    given = [sample("0", 0, n_atoms=2), sample("1", 1, n_atoms=3)]
    systems, labels = collate_samples(given)
    assert systems.counts.tolist() == [2, 3]
    assert labels.energy.tolist() == [0.0, 1.0]
    assert labels.energy.dtype == systems.positions.dtype == torch.float64
    np.testing.assert_array_equal(systems.positions[2:].numpy(), given[1].positions)
    np.testing.assert_array_equal(labels.forces[:2].numpy(), given[0].forces)
    assert systems.tags.tolist() == [0, 1, 0, 1, 2]
    assert systems.pbc.tolist() == [[True, True, False]] * 2
