"""Read a search space from YAML, build the recipe of a trial, and compute the objective."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import Field, model_validator

from geocalc.core import Settings, override, read_yaml
from geocalc.errors import RecipeError
from geocalc.train import Recipe, mean_error, parse_recipe

Value = float | int | str | bool | None


class Parameter(Settings):
    """A range, both ends included, or a list of choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Value, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Parameter:
        if self.choices:
            if self.low is not None or self.high is not None:
                raise ValueError("give low and high, or choices, not both")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("give low and a larger high, or choices")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range needs a low above 0")
        return self


class Space(Settings):
    """What is searched: parameters by recipe key, values set in every trial, and the weight of
    forces or positions.
    """

    parameters: dict[str, Parameter] = Field(min_length=1)
    fixed: dict[str, Value] = Field(default_factory=dict)
    vector_weight: float = Field(1.0, ge=0)


class Sampler(Protocol):
    """The part of an Optuna trial that draws values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A real number of a range."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number of a range."""
        ...

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""
        ...


def read_space(path: Path) -> Space:
    """Read a space.

    Raises:
        RecipeError: the file, a key or a value is not right.
    """
    space = Space.parse(read_yaml(path), str(path))
    both = sorted(set(space.parameters) & set(space.fixed))
    if both:
        raise RecipeError(f"{path}: {both[0]} is both searched and fixed; leave one of them out")
    return space


def draw(space: Space, trial: Sampler) -> dict[str, Value]:
    """Values of a trial by recipe key."""
    found: dict[str, Value] = {}
    for name, one in space.parameters.items():
        if one.choices:
            found[name] = trial.suggest_categorical(name, one.choices)
        elif one.integer:
            found[name] = trial.suggest_int(name, int(one.low), int(one.high), log=one.log)
        else:
            found[name] = trial.suggest_float(name, one.low, one.high, log=one.log)
    return found


def recipe_of(base: Path, space: Space, values: Mapping[str, Value]) -> Recipe:
    """The recipe of a trial.

    Raises:
        RecipeError: a key is none of a recipe's, or the values do not go together.
    """
    assignments = tuple(
        f"{name}={_as_yaml(value)}" for name, value in {**space.fixed, **values}.items()
    )
    return parse_recipe(override(read_yaml(base), assignments), f"a trial of {base.name}")


def _as_yaml(value: Value) -> str:
    return yaml.safe_dump([value], default_flow_style=True).strip()[1:-1]


def folder_name(recipe: Recipe) -> str:
    """Equal for equal recipes, so that a trial that was stopped goes on where it was."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:12]


def objective(errors: Mapping[str, Mapping[str, float]], vector_weight: float) -> float:
    """Energy MAE in eV plus the weighted MAE of forces (eV/A) or positions (A), over all held-out
    structures.
    """
    energy = mean_error(errors, "energy_mae")
    name = "force_mae" if all("force_mae" in one for one in errors.values()) else "position_mae"
    return energy if not vector_weight else energy + vector_weight * mean_error(errors, name)
