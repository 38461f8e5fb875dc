"""Optimizers by name, and how they are made from a name and settings."""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import Field, create_model

from geocalc.core.choice import Choice
from geocalc.core.nearest import nearest
from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.optim.base import Optimizer
from geocalc.optim.bfgs import Bfgs
from geocalc.optim.conjugate_gradient import ConjugateGradient
from geocalc.optim.fire import Fire
from geocalc.optim.fire2 import Fire2
from geocalc.optim.gradient_descent import GradientDescent
from geocalc.optim.lbfgs import Lbfgs
from geocalc.optim.quasi_newton import QuasiNewton

OPTIMIZERS: dict[str, type[Optimizer[Any]]] = {
    "bfgs": Bfgs,
    "conjugate-gradient": ConjugateGradient,
    "fire": Fire,
    "fire2": Fire2,
    "lbfgs": Lbfgs,
    "gradient-descent": GradientDescent,
    "quasi-newton": QuasiNewton,
}


def make_optimizer(choice: str | Choice) -> Optimizer[Any]:
    """Make an optimizer from its name, or from its name and settings; capitals do not matter.

    Raises:
        InputError: there is no optimizer of this name; the message has the nearest name, or all.
        RecipeError: it has no such setting, or a setting is not a positive number.
    """
    chosen = Choice(name=choice) if isinstance(choice, str) else choice
    kind = OPTIMIZERS.get(chosen.name.lower())
    if kind is None:
        raise InputError(
            f"there is no optimizer {chosen.name!r}; {nearest(chosen.name, OPTIMIZERS)}"
        )
    values = _settings_of(kind).parse(chosen.settings, f"optimizer {chosen.name.lower()}")
    return kind(**values.model_dump())


def optimizer_settings(choice: str | Choice) -> dict[str, str | int | float]:
    """The name of an optimizer and the values of all its settings, as run folders hold them.

    Raises:
        InputError, RecipeError: see `make_optimizer`.
    """
    optimizer: Any = make_optimizer(choice)
    name = choice if isinstance(choice, str) else choice.name
    return {"name": name.lower(), **asdict(optimizer)}


@cache
def _settings_of(kind: type[Optimizer[Any]]) -> type[Settings]:
    """The fields of an optimizer as settings that can be checked: positive numbers."""
    types = get_type_hints(kind)
    known: dict[str, Any] = {
        field.name: (types[field.name], Field(field.default, gt=0, allow_inf_nan=False))
        if types[field.name] is float
        else (types[field.name], Field(field.default, gt=0))
        for field in fields(kind)  # type: ignore[arg-type]
    }
    return create_model(kind.__name__, __base__=Settings, **known)
