"""A recipe for energies: data that tells how one model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from geocalc.core.energies import EnergyBasis
from geocalc.core.settings import Settings
from geocalc.data.settings import Data
from geocalc.frames.policy import FramePolicy, frame_policy
from geocalc.potentials.card import About, LevelOfTheory, PotentialSettings, Task
from geocalc.potentials.network import ForceMode
from geocalc.train.base_recipe import BaseRecipe
from geocalc.train.recipe_checks import check_recipe
from geocalc.train.settings import FineTuning, Training


class FittedReferences(Settings):
    """Per-atom energies, fitted before training and added to every prediction."""

    elements: tuple[str, ...] = Field(
        (), description="elements with a reference; empty: every element of the data"
    )


class OtherLevel(LevelOfTheory):
    """A level of theory beside that of `about`, with its own zero of energy; users choose it by its
    name.
    """

    level: str = Field(min_length=1)
    elements: tuple[str, ...] = Field(
        (), description="elements with a reference at this level; empty: every element"
    )


class EnergyAbout(About, LevelOfTheory):
    """Words about a model of energies, and its level of theory unless the recipe names others."""


class Start(Settings):
    """The model that a run begins with: its weights and scales; references are fitted to what it
    misses.
    """

    model: str = Field(description="name or folder")
    hash: str = Field(description="first 16 digits of the SHA-256 of its weights")


class Recipe(BaseRecipe):
    """How one model of energies is trained."""

    model_parts: ClassVar[tuple[str, ...]] = (
        *BaseRecipe.model_parts,
        "fitted_references",
        "other_levels",
        "start",
        "finetuning",
    )

    task: Literal[Task.S2EF, Task.IS2RE] = Task.S2EF
    start: Start | None = None
    finetuning: FineTuning | None = Field(
        None, description="for runs that begin with a model; None for the defaults"
    )
    about: EnergyAbout
    model: PotentialSettings
    data: Data
    fitted_references: FittedReferences = FittedReferences()
    other_levels: tuple[OtherLevel, ...] = ()
    training: Training

    def check(self, where: str) -> None:
        """See `BaseRecipe`."""
        check_recipe(self, where)

    def without_split(self) -> Self:
        """See `BaseRecipe`; only values of `validation_key` may differ."""
        if self.data.validation_key is None:
            return self
        data = self.data.model_copy(update={"validation_values": ()})
        return self.model_copy(update={"data": data})

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels of theory, by the network's numbers."""
        return (self.about.level, *(other.level for other in self.other_levels))

    @property
    def bases(self) -> tuple[EnergyBasis, ...]:
        """Kind, level of theory and references of the energies of each level."""
        levels: tuple[LevelOfTheory, ...] = (self.about, *self.other_levels)
        return tuple(
            EnergyBasis(one.energy_kind, one.level_of_theory, one.reference_text) for one in levels
        )

    @property
    def needs_forces(self) -> bool:
        """Whether structures without forces are left out: unless the model gives energies alone and
        learns from them alone.
        """
        training = self.training
        weights = (
            training.force_weight,
            training.direct_force_weight,
            training.gradient_target_weight,
        )
        return self.task is Task.S2EF and (
            self.model.force_mode is not ForceMode.NONE or any(weights)
        )

    @property
    def learns_fixed(self) -> bool:
        """Whether forces on fixed atoms are learned."""
        return self.training.fixed_force_weight > 0 and self.needs_forces

    @property
    def uses_tags(self) -> bool:
        """Whether tags are read: by the network, or to tell subsurface atoms apart in the loss."""
        return self.model.reads_tags or self.training.substrate_weight > 0

    @property
    def source_levels(self) -> tuple[int, ...]:
        """The number of each source's level."""
        return tuple(
            0 if source.level is None else self.levels.index(source.level)
            for source in self.data.sources
        )

    @property
    def energy_levels(self) -> tuple[int | None, ...]:
        """The number of the level whose references and scale each source's energies belong to; None
        where they are not learned.
        """
        pairs = zip(self.data.sources, self.source_levels, strict=True)
        return tuple(level if source.energies else None for source, level in pairs)

    @property
    def level_elements(self) -> tuple[tuple[str, ...], ...]:
        """The elements with a reference at each level."""
        return (self.fitted_references.elements, *(other.elements for other in self.other_levels))


def read_recipe(path: Path, assignments: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe file, with `a.b=1` overrides.

    Raises:
        RecipeError: the file, a key or a value is wrong; the message suggests the nearest allowed
            key.
    """
    return Recipe.read(path, assignments)


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Parse and check a recipe; `where` names its origin in messages.

    Raises:
        RecipeError: see `read_recipe`.
    """
    return Recipe.parse_checked(values, where)


def single_frame(model: PotentialSettings) -> FramePolicy:
    """Return the policy with the fewest frames: the learned one where the model has it, else one
    frame of the lattice.
    """
    return frame_policy("single" if model.canonicalizer is None else model.frames)
