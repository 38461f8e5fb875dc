"""Plot the training curve of each fold and their mean, and predictions against references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from measure import Fit

from geocalc.evaluation import BLUE, ORANGE, Parity, draw_panels

SHOWN = (0.4, 0.8)  # R2 on the axis; networks begin far below


def of_recipe(fits: Sequence[Fit], name: str) -> list[Fit]:
    """Its folds."""
    return [fit for fit in fits if fit.name == name]


def names(fits: Sequence[Fit]) -> list[str]:
    """Recipes in the order in which they were measured."""
    return list(dict.fromkeys(fit.name for fit in fits))


def draw_curves(fits: Sequence[Fit], path: Path) -> None:
    """R2 on the molecules held out against epochs; thin lines are folds, thick ones their means."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, color in zip(names(fits), (BLUE, ORANGE), strict=False):
        some = of_recipe(fits, name)
        tables = [np.array(fit.curve) * [fit.epochs / fit.steps, 1] for fit in some]
        for table in tables:
            axes.plot(table[:, 0], table[:, 1], color=color, lw=0.6, alpha=0.5)
        mean = np.mean(tables, axis=0)
        axes.plot(
            mean[:, 0], mean[:, 1], color=color, lw=2, label=f"{name}, {some[0].weights:,} weights"
        )
    axes.set(xlabel="epochs", ylabel="R² on the fold held out", xlim=(0, None), ylim=SHOWN)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)


def draw_parity(fits: Sequence[Fit], path: Path) -> None:
    """Predicted against known, a panel for each recipe; every molecule is predicted by the network
    that has not seen it.
    """
    panels = [
        Parity(
            predicted=np.concatenate([fit.predicted for fit in of_recipe(fits, name)]),
            reference=np.concatenate([fit.known for fit in of_recipe(fits, name)]),
            quantity="solubility",
            unit="log units",
            title=name,
        )
        for name in names(fits)
    ]
    draw_panels(panels, path)
