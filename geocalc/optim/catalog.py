"""Optimizers by name; a new one is a file and a line in `OPTIMIZERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geocalc.core.nearest import nearest
from geocalc.errors import InputError
from geocalc.optim.base import Optimizer
from geocalc.optim.bfgs import Bfgs
from geocalc.optim.fire import Fire
from geocalc.optim.fire2 import Fire2
from geocalc.optim.gradient_descent import GradientDescent
from geocalc.optim.lbfgs import Lbfgs
from geocalc.optim.quasi_newton import QuasiNewton

OPTIMIZERS: dict[str, Callable[[], Optimizer[Any]]] = {
    "bfgs": Bfgs,
    "fire": Fire,
    "fire2": Fire2,
    "lbfgs": Lbfgs,
    "gradient-descent": GradientDescent,
    "quasi-newton": QuasiNewton,
}


def make_optimizer(name: str) -> Optimizer[Any]:
    """The optimizer of that name with its default settings; capitals do not matter.

    Raises:
        InputError: there is none; the message names the nearest, or all.
    """
    factory = OPTIMIZERS.get(name.lower())
    if factory is None:
        raise InputError(f"there is no optimizer {name!r}; {nearest(name, OPTIMIZERS)}")
    return factory()
