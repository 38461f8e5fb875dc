"""Plot errors and irreps of relaxed weights against steps, and the directions of the fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from record import FieldFit, Fit

from geocalc.evaluation import BLUE, GREY, ORANGE

LOWEST = 1e-18  # of what is drawn; less is rounding
COLORS = {"equivariant": ORANGE, "relaxed": BLUE}
DPI = 110


def draw_shapes(fits: Sequence[Fit], path: Path) -> None:
    """Above, errors against steps with the best equivariant answer; below, lengths of the irreps of
    each layer.
    """
    names = [name for name in dict.fromkeys(fit.name for fit in fits) if name != "turned prism"]
    figure = Figure(figsize=(3.0 * len(names), 5.4), layout="constrained")
    panels = figure.subplots(2, len(names), sharey="row", squeeze=False)
    for name, above, below in zip(names, *panels, strict=True):
        some = [fit for fit in fits if fit.name == name]
        for fit in some:
            first = fit.seed == some[0].seed
            label = fit.network if first else None
            above.semilogy(
                np.maximum(fit.losses, LOWEST),
                color=COLORS[fit.network],
                lw=1.4 if first else 0.7,
                label=label,
            )
        if some[0].floor > LOWEST:
            above.axhline(some[0].floor, color=GREY, ls=":", label="best equivariant answer")
        above.set(title=f"cube to {name}: {some[0].group}", xlabel="steps", ylim=(LOWEST / 3, 10))
        above.xaxis.set_major_locator(MaxNLocator(integer=True))
        _bars(next(fit for fit in some if fit.network == "relaxed"), below)
    panels[0, 0].set_ylabel("mean squared error")
    panels[1, 0].set_ylabel("length of relaxed weights")
    panels[0, -1].legend(frameon=False, fontsize=8)
    panels[1, 0].legend(
        *panels[1, -1].get_legend_handles_labels(),
        frameon=False,
        fontsize=8,
        loc="center",
        bbox_to_anchor=(0.45, 0.7),
    )
    figure.savefig(path, dpi=DPI)


def _bars(fit: Fit, axes: Axes) -> None:
    """Lengths of irreps side by side for each layer; names of those that symmetry forbids are gray."""
    layers = sorted({part.layer for part in fit.parts})
    first = [part for part in fit.parts if part.layer == 1]
    for layer in layers:
        lengths = [max(part.length, LOWEST) for part in fit.parts if part.layer == layer]
        places = np.arange(len(lengths)) + 0.8 * (layer - 0.5) / len(layers) - 0.4
        shade = (BLUE, ORANGE, GREY)[layer - 1]
        axes.bar(
            places,
            lengths,
            width=0.8 / len(layers),
            color=shade,
            label=f"layer {layer}",
            bottom=LOWEST / 3,
        )
    axes.set_yscale("log")
    axes.set(ylim=(LOWEST / 3, 10))
    axes.set_xticks(range(len(first)), [part.irrep for part in first], fontsize=8)
    for tick, part in zip(axes.get_xticklabels(), first, strict=True):
        tick.set_color("black" if part.dimension else "#b0b0b0")


def draw_field(fits: Sequence[FieldFit], path: Path) -> None:
    """Components of the vector and the pseudovector of one layer against those of the fields, in
    units of their lengths.
    """
    figure = Figure(figsize=(6.4, 3.7), layout="constrained")
    for axes, irrep, field, name in zip(
        figure.subplots(1, 2, sharey=True),
        ("1o", "1e"),
        ("electric", "magnetic"),
        ("E", "B"),
        strict=True,
    ):
        for fit in fits:
            parts = [part for part in fit.parts if part.irrep == irrep]
            if len(parts) != 1:
                continue
            own, known = np.array(parts[0].values), np.array(getattr(fit, field))
            axes.plot(
                known,
                np.sign(own @ known) * own / np.linalg.norm(own),
                "o",
                color=BLUE,
                ms=4,
                alpha=0.6,
            )
        axes.plot([-1, 1], [-1, 1], color=GREY, lw=0.8, zorder=0)
        axes.set(xlabel=f"components of {name}", title=f"theta {irrep}", aspect="equal")
    figure.axes[0].set_ylabel("of theta, up to sign")
    figure.savefig(path, dpi=DPI)
