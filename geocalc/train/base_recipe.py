"""Recipes of every task: what they have in common, and how they are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field

from geocalc.core.nearest import nearest
from geocalc.core.settings import Settings, override, read_yaml
from geocalc.errors import RecipeError
from geocalc.potentials.card import About, NetworkSettings, Task
from geocalc.train.settings import Optimization

Architecture = TypeVar("Architecture")


class BaseRecipe(Settings):
    """How one model is trained: the fields of every recipe.

    Attributes:
        model_parts: keys that the runs of one model have in common; they may differ in the others,
            and in the structures that are held out.
    """

    model_parts: ClassVar[tuple[str, ...]] = ("task", "about", "model", "data")

    schema_version: int = Field(1, ge=1, le=1)
    name: str
    task: Task
    about: About
    model: NetworkSettings
    data: Settings
    training: Optimization

    @classmethod
    def read(cls, path: Path, assignments: tuple[str, ...] = ()) -> Self:
        """Read a recipe file, with `a.b=1` overrides.

        Raises:
            RecipeError: the file, a key or a value is wrong; the message suggests the nearest
                allowed key.
        """
        return cls.parse_checked(override(read_yaml(path), assignments), str(path))

    @classmethod
    def parse_checked(cls, values: Mapping[str, Any], where: str) -> Self:
        """Parse a recipe and check that its parts fit together; `where` names its origin in
        messages.

        Raises:
            RecipeError: see `read`.
        """
        recipe = cls.parse(values, where)
        recipe.check(where)
        return recipe

    @abstractmethod
    def check(self, where: str) -> None:
        """Refuse parts that do not fit together; `where` names the origin in messages.

        Raises:
            RecipeError: two settings contradict each other.
        """

    @abstractmethod
    def without_split(self) -> Self:
        """Return a copy that says nothing of which structures are held out, for comparisons."""


def find_architecture(
    model: NetworkSettings, known: Mapping[str, Architecture], where: str
) -> Architecture:
    """Return the architecture that a recipe or a card names.

    Args:
        model: names the architecture.
        known: architectures by name.
        where: origin of the name, for the message.
    Raises:
        RecipeError: there is none of that name; the message suggests the nearest.
    """
    if model.architecture not in known:
        raise RecipeError(
            f"{where}: unknown architecture `{model.architecture}`;"
            f" {nearest(model.architecture, sorted(known))}"
        )
    return known[model.architecture]
