"""Plot learning curves, maps of predicted and measured propensities, parity, and correlations at
several times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from measure import Fit
from page import Generated
from PIL import Image
from published import Published
from scores import Row

from geocalc.evaluation import Parity, draw_panels
from geocalc.properties.glass import GlassConfiguration

COLORS = ("#2f6db3", "#d9822b", "#3a8f5c", "#8a5ba6", "#b8443f", "#6b6b6b", "#b39b2f")
GREY = "#8a8a8a"
DPI, COLORS_KEPT = 100, 64
THICKNESS, DIAMETER = 2.0, 0.9  # sigma_AA, of the slice that is drawn and of its discs
# between names of published numbers; configurations
GAP, TICKS = 0.045, (2, 4, 8, 20, 50, 100, 200, 400)
TAILS = (0.02, 0.98)  # quantiles of what was measured, where the colors end


@dataclass(frozen=True, eq=False)
class Panel:
    """Propensities (n_A, n_times) of one configuration, and who says so."""

    title: str
    values: np.ndarray


def draw_curves(
    fits: Sequence[Fit],
    rows: Sequence[Row],
    baselines: Sequence[Row],
    published: Sequence[Published],
    path: Path,
) -> None:
    """Correlation on what is held out: left along the training, right against the number of
    configurations learned from.

    Args:
        fits: of all recipes; thin lines are folds, thick ones their means.
        rows: the same recipes when trained.
        baselines: one, with several numbers of configurations.
        published: drawn on the right.
        path: PNG to write.
    """
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, color in zip(rows, COLORS, strict=False):
        some = [fit for fit in fits if fit.planned.name == row.name]
        curves = [np.array([(epochs, pearson) for epochs, _, pearson in fit.curve]) for fit in some]
        for curve in curves if len(curves) > 1 else []:
            left.plot(*curve.T, color=color, lw=0.6, alpha=0.5)
        left.plot(*np.mean(curves, axis=0).T, color=color, lw=2, label=row.name)
        right.plot([row.learned], [row.validation[0].pooled], "s", color=color, ms=5)
    if baselines:
        learned = [row.learned for row in baselines]
        right.plot(
            learned,
            [row.validation[0].pooled for row in baselines],
            "o-",
            color="black",
            ms=4,
            label=baselines[0].name,
        )
        right.legend(frameon=False, fontsize=8, loc="lower right")
    _draw_published(right, [one for one in published if one.learned])
    left.set(xlabel="epochs", ylabel="Pearson correlation", xlim=(0, None), ylim=(None, 1))
    left.set_title("held out, along the training", fontsize=10)
    left.legend(frameon=False, fontsize=8, loc="best", ncols=2)
    right.set(
        xlabel="configurations learned from",
        xscale="log",
        xlim=(1.5, 600),
        xticks=TICKS,
        xticklabels=map(str, TICKS),
    )
    right.minorticks_off()
    right.set_title("held out (ours) and published", fontsize=10)
    _finish(figure, (left, right), path)


def _draw_published(axis: Any, some: Sequence[Published]) -> None:
    """Triangles with names, which are moved up where they would lie on each other."""
    height = 0.0
    for one in sorted(some, key=lambda one: one.pearson):
        height = max(one.pearson, height + GAP)
        axis.plot([one.learned], [one.pearson], "^", color=GREY, ms=5)
        axis.annotate(
            one.short, (0.8 * one.learned, height), fontsize=8, ha="right", va="center", color=GREY
        )


def draw_maps(configuration: GlassConfiguration, panels: Sequence[Panel], path: Path) -> None:
    """A slice through the box: discs are A particles, colored by propensity; all panels share the
    colors.

    Args:
        configuration: where the particles are.
        panels: the first is what was measured.
        path: PNG to write.
    """
    counted = configuration.types == 0
    places = np.mod(configuration.positions[counted], configuration.box)
    inside = np.flatnonzero(places[:, 2] < THICKNESS)
    inside = inside[np.argsort(places[inside, 2])]  # upper ones cover lower ones
    low, high = np.quantile(panels[0].values[:, 0], TAILS)
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.9 * columns + 0.8, 3.9 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes, panels, strict=False):
        size = np.full(len(inside), DIAMETER)
        discs = EllipseCollection(
            size,
            size,
            np.zeros(len(inside)),
            units="xy",
            offsets=places[inside, :2],
            offset_transform=axis.transData,
        )
        discs.set(
            array=panel.values[inside, 0],
            cmap="cividis",
            clim=(low, high),
            edgecolor="white",
            linewidth=0.3,
        )
        axis.add_collection(discs)
        axis.set(
            xlim=(0, configuration.box[0]),
            ylim=(0, configuration.box[1]),
            aspect="equal",
            xticks=[],
            yticks=[],
        )
        axis.set_title(panel.title, fontsize=10)
    figure.colorbar(
        discs, ax=list(axes[: len(panels)]), label="propensity (σ_AA)", shrink=0.7, extend="both"
    )
    _save(figure, path)


def draw_parity(panels: Sequence[Panel], known: np.ndarray, path: Path) -> None:
    """Predicted against measured propensities (n_A, n_times) of all test configurations; PNG to
    write.
    """
    drawn = [
        Parity(
            predicted=panel.values[:, 0],
            reference=known[:, 0],
            quantity="propensity",
            unit="σ_AA",
            title=panel.title,
        )
        for panel in panels
    ]
    draw_panels(drawn, path)


def draw_times(generated: Generated, path: Path) -> None:
    """Pooled correlation against time, and the most that the noise of the propensities allows; PNG
    to write.
    """
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(
        generated.times, generated.ceilings[-1].pooled, "--", color=GREY, label="ceiling, test"
    )
    for label, scores, color in (
        ("validation", generated.row.validation, COLORS[0]),
        ("test", generated.tested.scores if generated.tested else (), COLORS[1]),
    ):
        if scores:
            axis.plot(
                generated.times,
                [score.pooled for score in scores],
                "o-",
                ms=4,
                color=color,
                label=label,
            )
    axis.set(xscale="log", xlabel="time", ylabel="Pearson correlation", ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    _finish(figure, (axis,), path)


def _finish(figure: Figure, axes: Sequence[Any], path: Path) -> None:
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=DPI)


def _save(figure: Figure, path: Path) -> None:
    """With few colors, a third of the bytes."""
    whole = BytesIO()
    figure.savefig(whole, dpi=DPI)
    with Image.open(whole) as image:
        image.convert("RGB").quantize(COLORS_KEPT, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
