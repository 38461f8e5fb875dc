"""Compute correlations of predicted propensities, and their ceiling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geocalc.core import Settings
from geocalc.errors import InputError
from geocalc.properties import pearson, property_errors, reliability
from geocalc.properties.glass import GlassConfiguration

A = 0


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said of the A particles of a configuration.

    Attributes:
        name: of the configuration.
        predicted, known: (n, n_times), sigma_AA.
    """

    name: str
    predicted: np.ndarray
    known: np.ndarray


class Score(Settings):
    """How well some configurations are predicted, at one time.

    Attributes:
        names: of the configurations.
        each: Pearson's correlation within each of them.
        pooled: of all their particles together.
        r2: share of the variance of all particles that is explained.
    """

    names: tuple[str, ...]
    each: tuple[float, ...]
    pooled: float
    r2: float

    @property
    def mean(self) -> float:
        """Of the correlations within configurations."""
        return math.fsum(self.each) / len(self.each)


class Row(Settings):
    """What a line of the tables says of a recipe or a baseline.

    Attributes:
        name: of it.
        weights: numbers that are fitted.
        steps: of the optimizer.
        seconds: of one training.
        folds: how many trainings there were.
        learned: configurations behind each of them.
        chosen: what a baseline chose by the configurations it learned from: a decay of averages, or
            the strength of a ridge.
        validation: at each time, on all that was held out, by the trainings that have not seen it.
        last: the same on the last pair alone, which every recipe holds out; empty for
            configurations of another set.
        at_end: pooled correlation on that pair by the weights of the last step; None for baselines.
    """

    name: str
    weights: int
    steps: int = 0
    seconds: float = 0.0
    folds: int
    learned: int
    chosen: str = ""
    validation: tuple[Score, ...]
    last: tuple[Score, ...] = ()
    at_end: float | None = None


class Baselines(Settings):
    """Rows of the baselines, and of one of them with fewer configurations to learn from."""

    rows: tuple[Row, ...]
    fewer: tuple[Row, ...]


class Tested(Settings):
    """A recipe or baseline on the test configurations, at each time; `learned` configurations are
    behind it.
    """

    name: str
    learned: int
    scores: tuple[Score, ...]


class Tests(Settings):
    """All that were tested."""

    tested: tuple[Tested, ...]


class Ceiling(Settings):
    """The most that can be had: roots of the reliability of propensities, which are means over few
    runs.

    Attributes:
        names: of configurations.
        each: of them, at each time.
        pooled: of all together, at each time.
    """

    names: tuple[str, ...]
    each: tuple[tuple[float, ...], ...]
    pooled: tuple[float, ...]


def scores(answers: Sequence[Answer]) -> tuple[Score, ...]:
    """One for each time."""
    found = []
    for time in range(answers[0].known.shape[1]):
        predicted, known = ([part[:, time] for part in side] for side in _sides(answers))
        errors = property_errors(predicted, known)
        each = tuple(pearson(a, b) for a, b in zip(predicted, known, strict=True))
        found.append(
            Score(
                names=tuple(one.name for one in answers),
                each=each,
                pooled=errors.pearson,
                r2=errors.r2,
            )
        )
    return tuple(found)


def _sides(answers: Sequence[Answer]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [answer.predicted for answer in answers], [answer.known for answer in answers]


def ceiling(some: Sequence[GlassConfiguration]) -> Ceiling:
    """From the halves of the runs of configurations.

    Raises:
        InputError: halves are not known.
    """
    halves = []
    for one in some:
        if one.half_a is None or one.half_b is None:
            raise InputError(
                f"{one.name} has no propensities of halves of its runs, so their noise is not known; make it anew"
            )
        halves.append((one.half_a[:, one.types == A], one.half_b[:, one.types == A]))
    times = range(len(halves[0][0]))
    whole = [np.concatenate(side, axis=1) for side in zip(*halves, strict=True)]
    return Ceiling(
        names=tuple(one.name for one in some),
        each=tuple(tuple(math.sqrt(reliability(a[k], b[k])) for k in times) for a, b in halves),
        pooled=tuple(math.sqrt(reliability(whole[0][k], whole[1][k])) for k in times),
    )
