"""Optimizers of geometries: one file each, and one line of `geocalc.optim.catalog`."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "Bfgs": "bfgs",
        "ConjugateGradient": "conjugate_gradient",
        "Fire": "fire",
        "Fire2": "fire2",
        "GradientDescent": "gradient_descent",
        "Lbfgs": "lbfgs",
        "OPTIMIZERS": "catalog",
        "Optimizer": "base",
        "QuasiNewton": "quasi_newton",
        "make_optimizer": "catalog",
        "optimizer_settings": "catalog",
    },
)
