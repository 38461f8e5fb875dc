"""Predict held-out configurations with finished networks and baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from baselines import Baseline, Linear, Table, tables
from plan import PAIRS, Planned
from scores import Answer, Row, Score, scores

from geocalc.properties import (
    VALIDATION,
    GlassData,
    GraphSample,
    PropertyModel,
    predict_graphs,
    read_split,
    read_test,
    start_property,
)
from geocalc.train import (
    CHECKPOINT,
    METRICS,
    final_model,
    is_over,
    load_checkpoint,
    read_log,
    steps_done,
)

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Fit:
    """A finished training.

    Attributes:
        planned: what it is.
        model: with its last averaged weights, or the best by validation where the recipe has
            patience.
        learned: names of the configurations behind it.
        seconds: that it took.
        answers: of what it held out.
        curve: (epochs, R2, Pearson) of what was held out along the way.
    """

    planned: Planned
    model: PropertyModel
    learned: tuple[str, ...]
    seconds: float
    answers: tuple[Answer, ...]
    curve: tuple[tuple[float, float, float], ...]


def finished(planned: Planned) -> bool:
    """Whether a training is at its end."""
    training, folder = planned.recipe.training, planned.folder
    done = steps_done(folder / CHECKPOINT) >= training.steps or is_over(
        read_log(folder), training.patience
    )
    return done and (folder / METRICS).is_file()


def read_fit(planned: Planned, folder: Path) -> Fit:
    """A finished training, and what it says of what it held out; `folder` is that of inherent
    structures.
    """
    recipe = planned.recipe
    split = read_split(recipe.data, folder)
    run = start_property(recipe, split.training)
    load_checkpoint(planned.folder / CHECKPOINT, run.model.network, run.optimizer, run.average)
    model, log = (
        final_model(run, planned.folder, recipe.training.patience),
        read_log(planned.folder),
    )
    told = [
        (entry["step"], entry["validation"][VALIDATION]) for entry in log if "validation" in entry
    ]
    epochs = recipe.training.batch_size / len(split.training)  # behind a step
    return Fit(
        planned=planned,
        model=model,
        learned=tuple(sample.name for sample in split.training),
        seconds=_seconds([entry["seconds"] for entry in log]),
        answers=answers(model, split.validation),
        curve=tuple(
            (step * epochs, errors["r2"], errors.get("pearson", math.nan)) for step, errors in told
        ),
    )


def answers(model: PropertyModel, samples: Sequence[GraphSample]) -> tuple[Answer, ...]:
    """What a model says of the particles that count."""
    found = []
    for sample, rows in zip(samples, predict_graphs(model, samples, CPU), strict=True):
        counted = sample.counted.numpy()
        found.append(Answer(sample.name, rows[counted], sample.targets.double().numpy()[counted]))
    return tuple(found)


def _seconds(elapsed: list[float]) -> float:
    """Of all pieces of a run, from the times since each began, in order."""
    return sum(a for a, b in zip(elapsed, [*elapsed[1:], 0.0], strict=True) if b < a)


def row_of(fits: Sequence[Fit]) -> Row:
    """The trainings of one recipe."""
    first = fits[0]
    held_out = [answer for fit in fits for answer in fit.answers]
    return Row(
        name=first.planned.name,
        weights=sum(p.numel() for p in first.model.network.parameters()),
        steps=first.planned.recipe.training.steps,
        seconds=math.fsum(fit.seconds for fit in fits) / len(fits),
        folds=len(fits),
        learned=len(first.learned),
        validation=scores(held_out),
        last=_last(held_out),
        at_end=fits[-1].curve[-1][2],
    )


def said_of_test(fits: Sequence[Fit], folder: Path) -> tuple[Answer, ...]:
    """The mean of what the trainings of one recipe say of the configurations that none of them has
    seen.
    """
    samples = read_test(fits[0].planned.recipe.data, folder)
    said = [answers(fit.model, samples) for fit in fits]
    return tuple(
        Answer(some[0].name, np.mean([one.predicted for one in some], axis=0), some[0].known)
        for some in zip(*said, strict=True)
    )


def baseline_row(baseline: Baseline, some: Sequence[Table], learned: int | None = None) -> Row:
    """A baseline on the folds.

    Args:
        baseline: what is fitted.
        some: all that may be learned from.
        learned: how many of those not held out, None for all.
    """
    held_out: list[Answer] = []
    for pair in PAIRS:
        rest = [table for table in some if table.name not in pair]
        fit = baseline.fit(rest[:learned])
        held_out += [_answer(fit, table) for table in some if table.name in pair]
    return Row(
        name=baseline.name,
        weights=int(np.count_nonzero(fit.weights)) + 1,
        folds=len(PAIRS),
        learned=len(rest[:learned]),
        chosen=fit.chosen,
        validation=scores(held_out),
        last=_last(held_out),
    )


def baseline_of_test(
    baseline: Baseline, some: Sequence[Table], data: GlassData, folder: Path
) -> tuple[Answer, ...]:
    """What a baseline, fitted to all of `some`, says of the test configurations."""
    fit = baseline.fit(some)
    return tuple(_answer(fit, table) for table in tables(baseline, data, data.test, folder))


def _answer(fit: Linear, table: Table) -> Answer:
    return Answer(table.name, fit(table)[:, None], table.known[:, None])


def _last(held_out: Sequence[Answer]) -> tuple[Score, ...]:
    some = [answer for answer in held_out if answer.name in PAIRS[-1]]
    return scores(some) if some else ()
