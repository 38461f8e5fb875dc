"""How properties are learned: what counts, how graphs are turned and dealt, and that nothing but
the recipe decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.glasses import make_recipe, recipe_values, write_glasses
from helpers.training import cpu_fabric
from safetensors.torch import load_file
from torch import Tensor

from geocalc.errors import NonFiniteError, RecipeError
from geocalc.nn.edges import EdgeIndex
from geocalc.properties import task as lesson_module
from geocalc.properties.base import GraphInput
from geocalc.properties.data import Split, read_split
from geocalc.properties.model import PropertyModel, spread_of
from geocalc.properties.recipe import PropertyRecipe
from geocalc.properties.samples import (
    GraphBatch,
    GraphSample,
    collate_graphs,
    rotate_graphs,
    signed_permutations,
)
from geocalc.properties.task import (
    PropertyTask,
    errors_per_target,
    predict_graph,
    predict_graphs,
    train_property,
)
from geocalc.train.run import Run
from geocalc.train.run_files import read_log

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def glasses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glasses(tmp_path_factory.mktemp("glass"))


def lesson_of(folder: Path, **training: Any) -> PropertyTask:
    recipe = make_recipe(folder, **training)
    return PropertyTask(recipe, read_split(recipe.data, folder / "data"), cpu_fabric())


def tensors_of(run: Path) -> dict[str, Tensor]:
    (path,) = (run / "checkpoint").glob("state-*.safetensors")
    return load_file(path)


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = tensors_of(one), tensors_of(other)
    assert expected.keys() == found.keys()
    assert {name.split(".")[0] for name in found} == {"weights", "average", "optimizer"}
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])] == []
    timeless = [
        [{k: v for k, v in e.items() if k not in ("seconds", "done_here")} for e in read_log(run)]
        for run in (one, other)
    ]
    assert timeless[0] == timeless[1]
    assert (one / "metrics.json").read_text() == (other / "metrics.json").read_text()


# what counts


def gradients(task: PropertyTask, batch: GraphBatch) -> tuple[Tensor, list[Tensor]]:
    """Loss of a fresh network and its gradient."""
    run = task.start()
    loss = task._backward(run.model, batch, 0)
    return loss, [p.grad.clone() for p in run.model.network.parameters() if p.grad is not None]


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_targets_of_b_change_neither_the_loss_nor_its_gradient(glasses: Path, loss: str) -> None:
    task = lesson_of(glasses, loss=loss)
    batch = collate_graphs(task.split.training[:2])
    assert torch.equal(batch.counted, batch.inputs.types == 0)
    value, slopes = gradients(task, batch)
    other = replace(
        batch, targets=torch.where(batch.counted[:, None], batch.targets, torch.tensor(1e6))
    )
    changed, changed_slopes = gradients(task, other)
    assert torch.equal(value, changed)
    assert all(torch.equal(a, b) for a, b in zip(slopes, changed_slopes, strict=True))
    shifted, _ = gradients(task, replace(batch, targets=batch.targets + 1.0))
    assert not torch.allclose(shifted, value)


@pytest.mark.parametrize(("loss", "power"), [("squared", 2), ("absolute", 1)])
def test_the_loss_is_the_mean_over_what_counts_in_units_of_the_spread(
    glasses: Path, loss: str, power: int
) -> None:
    task = lesson_of(glasses, loss=loss)
    batch, model = collate_graphs(task.split.training[:3]), task.start().model
    with torch.no_grad():
        off = ((model(batch.inputs) - batch.targets) / model.spread)[
            batch.inputs.types == 0
        ].abs() ** power
    value, _ = gradients(task, batch)
    torch.testing.assert_close(value[0], off.mean())


def test_mean_and_spread_are_those_of_what_is_learnt(glasses: Path) -> None:
    task = lesson_of(glasses)
    values = torch.cat([s.targets[s.types == 0] for s in task.split.training]).double()
    model = task.start().model
    assert float(model.mean) == pytest.approx(float(values.mean()), rel=1e-6)
    assert float(model.spread) == pytest.approx(float(values.std(unbiased=False)), rel=1e-6)
    with torch.no_grad():
        model.network.decode[-1].weight.zero_()
        model.network.decode[-1].bias.fill_(2.0)
    (sample,) = task.split.validation
    assert predict_graph(model, sample, CPU) == pytest.approx(
        float(values.mean() + 2 * values.std(unbiased=False)), rel=1e-5
    )


def test_the_unit_of_the_targets_does_not_matter(glasses: Path) -> None:
    task = lesson_of(glasses)
    other = replace(task, split=scaled(task.split, lambda targets: 100 * targets - 7))
    one, two = trained(task, 5).model, trained(other, 5).model
    (sample,), (again,) = task.split.validation, other.split.validation
    assert predict_graph(two, again, CPU) == pytest.approx(
        100 * predict_graph(one, sample, CPU) - 7, rel=1e-3
    )


def scaled(split: Split, change: Callable[[Tensor], Tensor]) -> Split:
    return Split(
        *(
            tuple(replace(s, targets=change(s.targets)) for s in side)
            for side in (split.training, split.validation)
        )
    )


def test_a_target_that_does_not_vary_has_a_spread_of_one(glasses: Path) -> None:
    samples = [
        replace(s, targets=torch.full_like(s.targets, 0.25))
        for s in lesson_of(glasses).split.training
    ]
    assert [values.tolist() for values in spread_of(samples)] == [[0.25], [1.0]]


def test_a_loss_that_is_no_number_ends_the_run_in_a_sentence(glasses: Path) -> None:
    task = lesson_of(glasses)
    run = task.start()
    with torch.no_grad():
        run.model.network.decode[-1].bias.fill_(float("inf"))
    with pytest.raises(
        NonFiniteError, match="the loss is inf at step 0; go on from the last checkpoint"
    ):
        task.update(run, collate_graphs(task.split.training[:1]), 0)


# turning


def test_turns_are_the_group_of_the_cube() -> None:
    turns = signed_permutations()
    assert turns.shape == (48, 3, 3)
    as_text = {str(turn.int().tolist()) for turn in turns}
    assert len(as_text) == 48
    assert torch.equal(turns @ turns.mT, torch.eye(3).expand(48, 3, 3))
    products = torch.einsum("aij,bjk->abik", turns, turns).reshape(-1, 3, 3)
    assert {str(product.int().tolist()) for product in products} == as_text
    assert sorted(torch.linalg.det(turns).round().tolist()) == [-1.0] * 24 + [1.0] * 24


def test_each_graph_is_turned_with_a_matrix_of_its_own(glasses: Path) -> None:
    samples = lesson_of(glasses).split.training[:3]
    turns = signed_permutations()[[5, 17, 40]]
    batch = rotate_graphs(collate_graphs(samples), turns)
    expected = [sample.edge_vec @ turn.T for sample, turn in zip(samples, turns, strict=True)]
    assert torch.equal(batch.inputs.edge_vec, torch.cat(expected))
    assert torch.equal(batch.targets, torch.cat([sample.targets for sample in samples]))
    lengths = torch.cat([sample.edge_vec for sample in samples]).norm(dim=1)
    torch.testing.assert_close(batch.inputs.edge_vec.norm(dim=1), lengths)


def test_turning_may_be_left_out_and_is_drawn_anew_each_time(glasses: Path) -> None:
    by_name = {s.name: s for s in lesson_of(glasses).split.training}

    def turns_seen(turn: bool) -> list[bool]:
        task = lesson_of(glasses, rotate=turn, batch_size=len(by_name))
        found = []
        for _, batch in task.batches(task.start(), range(3)):
            lengths = sorted(batch.inputs.edge_vec[:, 0].abs().tolist())
            found.append(
                lengths
                == sorted(x for s in by_name.values() for x in s.edge_vec[:, 0].abs().tolist())
            )
        return found

    assert turns_seen(turn=False) == [True] * 3
    assert turns_seen(turn=True) == [False] * 3


# batches


def test_every_epoch_goes_through_all_graphs_in_an_order_of_its_own(glasses: Path) -> None:
    task = lesson_of(glasses, batch_size=3, rotate=False)
    known = {tuple(s.targets.flatten().tolist()): s.name for s in task.split.training}
    names: list[str] = []
    for _, batch in task.batches(task.start(), range(16)):
        names += [known[tuple(rows.flatten().tolist())] for rows in batch.targets.split(125)]
    epochs = [names[k : k + 4] for k in range(0, 48, 4)]
    assert all(sorted(epoch) == ["g0", "g1", "g2", "g3"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_a_batch_gives_each_graph_what_it_gets_alone(
    glasses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = lesson_of(glasses)
    samples = [*task.split.training, *task.split.validation]
    model = trained(task, 4).model.double()
    doubled = [replace(s, edge_vec=s.edge_vec.double()) for s in samples]
    with torch.no_grad():
        together = model(collate_graphs(doubled).inputs)
    alone = [predict_graph(model, sample, CPU) for sample in doubled]
    torch.testing.assert_close(
        together, torch.from_numpy(np.concatenate(alone)), rtol=0.0, atol=1e-12
    )
    monkeypatch.setattr(lesson_module, "NODES", 250)  # two at a time
    by_twos = list(predict_graphs(model, doubled, CPU))
    assert [rows.shape for rows in by_twos] == [(125, 1)] * 5
    np.testing.assert_allclose(np.concatenate(by_twos), np.concatenate(alone), rtol=0.0, atol=1e-12)


def test_a_batch_has_the_mean_gradient_of_its_graphs(glasses: Path) -> None:
    task = lesson_of(glasses)
    samples = task.split.training[:3]
    assert len({int(s.counted.sum()) for s in samples}) == 1
    _, whole = gradients(task, collate_graphs(samples))
    parts = [gradients(task, collate_graphs([sample]))[1] for sample in samples]
    for k, slope in enumerate(whole):
        torch.testing.assert_close(slope, sum(part[k] for part in parts) / 3, rtol=1e-4, atol=1e-5)


def trained(task: PropertyTask, steps: int) -> Run[PropertyModel]:
    run = task.start()
    for step, batch in task.batches(run, range(steps)):
        task.update(run, batch, step)
    return run


# the same run again


def fit(recipe: PropertyRecipe, folder: Path) -> Path:
    return train_property(recipe, folder, folder.parent / "data", cpu_fabric())


def test_a_run_that_is_broken_off_and_resumed_equals_the_uninterrupted_one(
    glasses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(glasses)
    whole, broken = fit(recipe, tmp_path / "whole"), tmp_path / "broken"
    descend = lesson_module.descend

    def descend_or_die(run: Any, settings: Any, step: int, *rest: Any) -> Any:
        if step == 8:
            raise KeyboardInterrupt
        return descend(run, settings, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(lesson_module, "descend", descend_or_die)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, broken)
    assert not (broken / "metrics.json").exists()
    fit(recipe, broken)
    assert_same_run(whole, broken)


def test_a_run_in_pieces_equals_the_whole_one(glasses: Path, tmp_path: Path) -> None:
    whole = fit(make_recipe(glasses, steps=3, patience=2, evaluate_every=1), tmp_path / "whole")
    for _ in range(3):
        pieces = fit(
            make_recipe(glasses, steps=3, patience=2, evaluate_every=1, max_seconds=1e-6),
            tmp_path / "pieces",
        )
    assert_same_run(whole, pieces)


def test_a_seed_decides_and_nothing_else_does(glasses: Path, tmp_path: Path) -> None:
    one = fit(make_recipe(glasses, steps=3), tmp_path / "one")
    torch.rand(10)
    assert_same_run(one, fit(make_recipe(glasses, steps=3), tmp_path / "two"))
    other = tensors_of(fit(make_recipe(glasses, steps=3, seed=5), tmp_path / "other"))
    weights = [name for name in other if name.startswith("weights.")]
    assert not any(torch.equal(tensors_of(one)[name], other[name]) for name in weights)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("model", "settings", {"num_layers": 2}), ("data", "counted", [0, 1])],
)
def test_a_run_of_another_recipe_is_not_continued(
    glasses: Path, tmp_path: Path, part: str, key: str, value: Any
) -> None:
    run = fit(make_recipe(glasses, steps=3), tmp_path / "run")
    values = recipe_values(glasses, steps=6)
    values[part][key] = value
    with pytest.raises(RecipeError, match=f"holds a run with another `{part}` in its recipe"):
        fit(PropertyRecipe.parse(values, "test"), run)


# learning


@pytest.mark.slow
def test_what_can_be_learnt_is_learnt(glasses: Path) -> None:
    task = lesson_of(glasses, steps=150, learning_rate=0.01)
    before = errors_per_target(task.start().model, task.split.validation, CPU)[0]
    after = errors_per_target(trained(task, 150).averaged(), task.split.validation, CPU)[0]
    assert before.r2 < 0.5
    assert after.r2 > 0.95  # the number of neighbors, in a configuration that was held out
    assert after.pearson_each > 0.97


@pytest.mark.slow
def test_a_number_of_each_graph_is_learnt() -> None:
    samples = [chain(n, seed) for seed in range(3) for n in range(4, 14)]
    values = recipe_values(
        Path("nowhere"), steps=200, learning_rate=0.02, batch_size=10, rotate=True
    )
    values |= {"task": "graph", "model": {"architecture": "gcn", "settings": {"n_types": 2}}}
    values["data"] = {"kind": "zinc", "path": "nowhere"}
    task = PropertyTask(
        PropertyRecipe.parse(values, "test"),
        Split(tuple(samples[:24]), tuple(samples[24:])),
        cpu_fabric(),
    )
    model = trained(task, 200).averaged()
    assert errors_per_target(model, task.split.validation, CPU)[0].r2 > 0.9
    batch = collate_graphs(task.split.validation)
    assert model(batch.inputs).shape == batch.targets.shape == (6, 1)


def chain(n: int, seed: int) -> GraphSample:
    """Nodes in a row, of two types; the property is the share of the second."""
    types = (
        torch.rand(n, generator=torch.Generator().manual_seed(100 * n + seed))
        < 0.1 + 0.08 * (n - 4)
    ).long()
    ends = torch.cat(
        [
            torch.stack([torch.arange(n - 1), torch.arange(1, n)]),
            torch.stack([torch.arange(1, n), torch.arange(n - 1)]),
        ],
        1,
    )
    senders, receivers = ends[:, torch.argsort(ends[1], stable=True)]
    share = types.float().mean().reshape(1, 1)
    return GraphSample(
        name=f"chain {n}",
        types=types,
        senders=senders,
        receivers=receivers,
        targets=share,
        counted=torch.ones(1, dtype=torch.bool),
    )


def test_moving_to_a_device_keeps_everything(glasses: Path) -> None:
    batch = collate_graphs(lesson_of(glasses).split.training[:2])
    there = batch.to(torch.device("meta"))
    assert there.targets.device.type == there.inputs.edge_vec.device.type == "meta"
    assert isinstance(there.inputs, GraphInput)
    assert isinstance(there.inputs.index, EdgeIndex)
    assert {t.device.type for t in vars(there.inputs.index).values() if isinstance(t, Tensor)} == {
        "meta"
    }
