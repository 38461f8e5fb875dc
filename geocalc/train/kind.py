"""A kind of task: the functions in which models of energies and models of properties differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor

from geocalc.potentials.card import Card
from geocalc.train.base_recipe import BaseRecipe
from geocalc.train.loop import Evaluation, TrainingProgress
from geocalc.train.run import Run, Trainable

if TYPE_CHECKING:
    from lightning_fabric import Fabric

R = TypeVar("R", bound=BaseRecipe)
M = TypeVar("M", bound=Trainable)
D = TypeVar("D")
C = TypeVar("C", bound=Card)

Train = Callable[
    [
        R,
        Path,
        Path,
        "Fabric",
        Callable[[TrainingProgress], None],
        Callable[[Evaluation], None],
    ],
    Path,
]


@dataclass(frozen=True, kw_only=True)
class Member(Generic[R, M, D]):
    """A finished run, which becomes a model or a member of an ensemble.

    Attributes:
        run: its folder.
        recipe: its recipe.
        model: the trained model, with averaged weights.
        samples: its data, split.
    """

    run: Path
    recipe: R
    model: M
    samples: D


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The text of a model's README that depends on the kind of task.

    Attributes:
        introduction: lines on the network, the predicted quantity and its domain.
        errors: lines of the section on errors, its title first.
    """

    introduction: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TaskKind(Generic[R, M, D, C]):
    """How models of one kind of task are trained and registered.

    Attributes:
        recipe: the class of its recipes.
        card: the class of its cards.
        use: how a registered model is used, with `{name}` in place of its name.
        read_data: reads the data of a recipe and splits them; what is computed from them is kept in
            a folder.
        start: makes a run before its first step, from a recipe and its data.
        train: trains a recipe; arguments are those of `geocalc.train.task.train`.
        check_members: refuses runs of these recipes that cannot become one ensemble.
        join: makes one model of several members, or returns the model of the only one.
        weights: the tensors of a model that are kept.
        measure: errors of a model of several members, as metrics.json has them.
        make_domain: what a model knows of its training data, as tensors by name; None where the
            kind of task has none.
        make_card: makes the card of a model from its members, its name and the hash of its weights.
        summarize: describes a card and its metrics in words.
    """

    recipe: type[R]
    card: type[C]
    use: str
    read_data: Callable[[R, Path], D]
    start: Callable[[R, D], Run[M]]
    train: Train[R]
    check_members: Callable[[Sequence[R]], None]
    join: Callable[[Sequence[Member[R, M, D]]], M]
    weights: Callable[[M], Mapping[str, Tensor]]
    measure: Callable[[Sequence[Member[R, M, D]], M], dict[str, Any]]
    make_domain: Callable[[Sequence[Member[R, M, D]], M], Mapping[str, Tensor] | None]
    make_card: Callable[[Sequence[Member[R, M, D]], M, str, str], C]
    summarize: Callable[[C, Mapping[str, Any]], Summary]
