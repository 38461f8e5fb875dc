"""Optimizers by name; to add one, write a file here and a line in `OPTIMIZERS`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from geocalc.errors import InputError
from geocalc.optim.base import Optimizer
from geocalc.optim.bfgs import Bfgs
from geocalc.optim.conjugate_gradient import ConjugateGradient
from geocalc.optim.fire import Fire
from geocalc.optim.fire2 import Fire2
from geocalc.optim.gradient_descent import GradientDescent
from geocalc.optim.lbfgs import Lbfgs
from geocalc.optim.quasi_newton import QuasiNewton

__all__ = [
    "OPTIMIZERS",
    "Bfgs",
    "ConjugateGradient",
    "Fire",
    "Fire2",
    "GradientDescent",
    "Lbfgs",
    "Optimizer",
    "QuasiNewton",
    "make_optimizer",
]

OPTIMIZERS: dict[str, Callable[[], Optimizer[Any]]] = {
    "bfgs": Bfgs,
    "conjugate-gradient": ConjugateGradient,
    "fire": Fire,
    "fire2": Fire2,
    "lbfgs": Lbfgs,
    "gradient-descent": GradientDescent,
    "quasi-newton": QuasiNewton,
}


def make_optimizer(name: str) -> Optimizer[Any]:
    """Make the optimizer of a name, upper or lower case, with its default settings.

    Raises:
        InputError: the name is unknown; the message gives the nearest name, or all.
    """
    factory = OPTIMIZERS.get(name.lower())
    if factory is None:
        near = difflib.get_close_matches(name.lower(), OPTIMIZERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(OPTIMIZERS)}"
        raise InputError(f"there is no optimizer {name!r}; {hint}")
    return factory()
