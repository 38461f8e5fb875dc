"""A recipe for a property of nodes or graphs: data that tells how one model is trained."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from geocalc.core.settings import Settings
from geocalc.errors import RecipeError
from geocalc.potentials.card import About, NetworkSettings, Task
from geocalc.properties.base import PropertyNetwork
from geocalc.properties.catalog import NETWORKS
from geocalc.train.base_recipe import BaseRecipe, find_architecture
from geocalc.train.settings import Optimization, half_cosine

# arrays of structures, which a property may not take the place of
TAKEN = ("positions", "numbers", "types", "tags")


class Structure(StrEnum):
    """Where the particles of a glass are taken to be."""

    THERMAL = "thermal"
    INHERENT = "inherent"


class GlassGraph(Settings):
    """How a configuration of a glass becomes a graph."""

    structure: Structure = Field(
        Structure.THERMAL,
        description="edges join particles as they were, or at the nearest minimum",
    )
    cutoff: float = Field(2.0, gt=0, description="of edges, in Lennard-Jones units")
    self_loops: bool = True


class GlassData(Settings):
    """Configurations of a glass with the propensities of their particles; each side of the split is
    named.
    """

    kind: Literal["glass"]
    folder: Path = Field(
        description="of npz files; a relative one is looked for in $GEOCALC_DATA too"
    )
    training: tuple[str, ...] = Field(
        (), description="file names without suffix; empty: all that are not named elsewhere"
    )
    validation: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = Field((), description="kept apart; training never reads them")
    times: tuple[int, ...] = Field(
        (), description="which of the stored times are learned, counted from 0; empty: all"
    )
    counted: tuple[int, ...] = Field(
        (0,), min_length=1, description="types whose propensity is learned and judged"
    )
    graph: GlassGraph = GlassGraph()


class ZincData(Settings):
    """Molecules of ZINC; one of several folds is held out."""

    kind: Literal["zinc"]
    path: Path
    parts: tuple[str, ...] = Field(
        ("val", "test"), min_length=1, description="splits of the file that are put together"
    )
    folds: int = Field(5, ge=2)
    fold: int = Field(0, ge=0, description="the one that is held out")
    shuffle: int = Field(0, description="seed of the order in which molecules are dealt to folds")

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(
                f"fold {self.fold} does not exist; {self.folds} folds are counted from 0"
            )
        return self


class Decay(StrEnum):
    """How the learning rate falls during a stage."""

    CONSTANT = "constant"
    COSINE = "cosine"
    STAIRS = "stairs"


class Stage(Settings):
    """A part of the training with a learning rate of its own."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    decay: Decay = Decay.CONSTANT
    every: int = Field(1, ge=1, description="stairs: steps between falls")
    factor: float = Field(
        0.3, gt=0, le=1, description="stairs: what the rate is multiplied with each time"
    )

    def rate_at(self, step: int) -> float:
        """The learning rate of a step of the stage, counted from 0."""
        if self.decay is Decay.COSINE:
            return self.learning_rate * half_cosine(step, self.steps)
        return self.learning_rate * (
            self.factor ** (step // self.every) if self.decay is Decay.STAIRS else 1.0
        )


class LossKind(StrEnum):
    """What is made small."""

    SQUARED = "squared"
    ABSOLUTE = "absolute"


class PropertyTraining(Optimization):
    """How properties are learned; defaults are of Bapst et al., with a learning rate that falls."""

    batch_size: int = Field(1, ge=1, description="graphs behind one step of the optimizer")
    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    loss: LossKind = LossKind.SQUARED
    rotate: bool = Field(
        True,
        description=(
            "each graph is turned by one of the 48 rotations and reflections of a cube, drawn anew"
        ),
    )
    stages: tuple[Stage, ...] = Field(
        (), description="in place of the schedule; together as long as `steps`"
    )

    @model_validator(mode="after")
    def _stages_fill_the_steps(self) -> Self:
        total = sum(stage.steps for stage in self.stages)
        if self.stages and total != self.steps:
            raise ValueError(
                f"the stages have {total} steps together, training.steps is {self.steps}; they must"
                " be equal"
            )
        return self

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0: that of its stage, or the common schedule
        where there are none.
        """
        for stage in self.stages:
            if step < stage.steps:
                return stage.rate_at(step)
            step -= stage.steps
        return super().rate_at(step)


class Property(Settings):
    """The predicted property."""

    target: str = Field(
        pattern=r"^[A-Za-z]\w*$",
        description="name of the property, as arrays of predicted structures have it",
    )
    unit: str

    @field_validator("target")
    @classmethod
    def _name_is_free(cls, target: str) -> str:
        if target in TAKEN:
            raise ValueError("structures have an array of that name; choose another")
        return target


class PropertyAbout(About, Property):
    """Words about a model of a property."""


class PropertyRecipe(BaseRecipe):
    """How one model of a property is trained."""

    task: Literal[Task.NODE, Task.GRAPH]
    about: PropertyAbout
    data: Annotated[GlassData | ZincData, Field(discriminator="kind")]
    training: PropertyTraining

    @model_validator(mode="after")
    def _task_is_that_of_the_data(self) -> Self:
        task = Task.NODE if isinstance(self.data, GlassData) else Task.GRAPH
        if self.task is not task:
            raise ValueError(
                f"task is {self.task}, but data of kind {self.data.kind} have a property of each"
                f" {task}"
            )
        return self

    def check(self, where: str) -> None:
        """See `BaseRecipe`."""
        level = build_network(self.model, where).level
        if level.value != self.task.value:
            raise RecipeError(
                f"{where}: task is {self.task}, but the network predicts a property of each"
                f" {level}; set model.settings.level: {self.task}"
            )

    def without_split(self) -> Self:
        """See `BaseRecipe`."""
        hidden = {"training": (), "validation": (), "test": (), "fold": 0}
        data = self.data.model_copy(
            update={key: hidden[key] for key in hidden if key in type(self.data).model_fields}
        )
        return self.model_copy(update={"data": data})


def read_property_recipe(path: Path, assignments: tuple[str, ...] = ()) -> PropertyRecipe:
    """Read a recipe file, with `a.b=1` overrides.

    Raises:
        RecipeError: the file, a key or a value is wrong; the message suggests the nearest allowed
            key.
    """
    return PropertyRecipe.read(path, assignments)


def build_network(model: NetworkSettings, where: str) -> PropertyNetwork:
    """Build the network of a recipe or a card, with random weights.

    Raises:
        RecipeError: the architecture or one of its settings is unknown.
    """
    architecture = find_architecture(model, NETWORKS, where)
    settings = architecture.settings.parse(model.settings, f"{where}: model.settings")
    with torch.random.fork_rng(devices=[]):
        return architecture.build(settings)
