"""Plots of learning curves and errors, and the PNG writer of all plots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from geocalc.errors import MissingDependencyError
from geocalc.evaluation.metrics import energy_within_threshold, mae, rmse

BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#8a8a8a"
DPI = 130
COLORS = 128  # of a picture; a third of the bytes of all, and the eye sees no difference
ROW = 3  # panels side by side that can be read on a page
TITLE, CORNER = 10, 9  # points, of titles and of what is written in corners
FEW, MANY = 300, 3000  # points: more are drawn fainter, many more as a density
# of errors that a distribution shows; of many values parity leaves out half a percent on either
# side
SHARE = 0.98
MARGIN = 0.05  # of the range of the reference values, on either side
TINY = 1e-6  # a range is never empty


def require_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises:
        MissingDependencyError: matplotlib is missing; the message names the extra to install.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "pictures need matplotlib; install it with: pip install 'geocalc[plot]'"
        )


@dataclass(frozen=True)
class Measure:
    """Axis label and scale of a validation metric."""

    label: str
    log: bool = True


ENERGY_MEASURES = (Measure("energy MAE (eV)"), Measure("force MAE, free atoms (eV/Å)"))
PROPERTY_MEASURES = (Measure("1 − R²"), Measure("Pearson correlation", log=False))


def learning_curve(
    points: Mapping[str, Sequence[tuple[int, float, float]]],
    path: Path,
    measures: tuple[Measure, Measure] = ENERGY_MEASURES,
) -> Path:
    """Plot two validation metrics side by side against the training step, one line per source.

    Args:
        points: (step, left metric, right metric) rows of each source.
        path: PNG file to write.
        measures: labels of the left and the right axis.
    Returns:
        `path`.
    """
    figure, axes = _figure(2)
    for (source, rows), color in zip(
        points.items(), itertools.cycle((BLUE, ORANGE, GREY, "black")), strict=False
    ):
        table = np.array(rows)
        for axis, column in zip(axes, (1, 2), strict=True):
            axis.plot(
                table[:, 0],
                table[:, column],
                "o-",
                ms=3,
                color=color,
                label=Path(source).parent.name or source,
            )
    for axis, measure in zip(axes, measures, strict=True):
        axis.set(xlabel="step", ylabel=measure.label, yscale="log" if measure.log else "linear")
    axes[0].legend(frameon=False, fontsize=8)
    return save(figure, path)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Parity plot: predicted against reference values.

    Attributes:
        predicted: (n,) in `unit`.
        reference: (n,) in `unit`.
        quantity: name of the quantity, such as "energy".
        unit: such as "eV".
        threshold: the fraction of errors below this value is stated, in `unit`; None to omit it.
        title: text above the panel.
    """

    predicted: np.ndarray
    reference: np.ndarray
    quantity: str
    unit: str
    threshold: float | None = None
    title: str = ""

    def draw(self, figure: Any, axis: Any) -> None:
        """Draw the plot; values beyond the range of the reference are counted in a note.

        Both axes span the reference values.
        """
        low, high = _range(self.reference, MARGIN)
        inside = (
            (self.predicted >= low)
            & (self.predicted <= high)
            & (self.reference >= low)
            & (self.reference <= high)
        )
        x, y = self.reference[inside], self.predicted[inside]
        if len(x) > MANY:
            bins = axis.hexbin(
                x,
                y,
                gridsize=60,
                bins="log",
                cmap="cividis_r",
                mincnt=1,
                linewidths=0.1,
                extent=(low, high) * 2,
            )
            figure.colorbar(bins, ax=axis, label="values in a cell", shrink=0.8, pad=0.02)
        else:
            axis.scatter(x, y, s=14, alpha=0.45 if len(x) > FEW else 0.7, color=BLUE, linewidths=0)
        axis.axline((low, low), slope=1, color="black", lw=0.8)
        axis.set(xlim=(low, high), ylim=(low, high))
        axis.set_title(self.title, fontsize=TITLE)
        axis.set(
            xlabel=f"reference {self.quantity} ({self.unit})",
            ylabel=f"predicted {self.quantity} ({self.unit})",
        )
        axis.set_aspect("equal")
        axis.locator_params(nbins=6)
        _write(
            axis,
            _in_words(self.predicted - self.reference, self.unit, self.threshold),
            "left",
            "top",
        )
        _say_outside(axis, len(inside) - int(inside.sum()), "right", "bottom")


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Histogram of errors.

    Attributes:
        errors: (n,) predicted minus reference, in `unit`.
        quantity: name of the quantity, such as "energy".
        unit: such as "eV".
        threshold: errors below this value are shaded, in `unit`; None to omit the shading.
        title: text above the panel.
    """

    errors: np.ndarray
    quantity: str
    unit: str
    threshold: float | None = None
    title: str = ""

    def draw(self, figure: Any, axis: Any) -> None:
        """Draw the histogram without the few largest errors, which are counted in a note."""
        reach = max(
            float(np.quantile(np.abs(self.errors), SHARE)), 2 * (self.threshold or 0.0), TINY
        )
        outside = int((np.abs(self.errors) > reach).sum())
        axis.hist(self.errors, bins=31, range=(-reach, reach), color=BLUE, alpha=0.85)
        if self.threshold is not None:
            axis.axvspan(-self.threshold, self.threshold, color=ORANGE, alpha=0.35, lw=0, zorder=0)
        axis.axvline(float(np.median(self.errors)), color="black", lw=1, ls="--")
        axis.set(
            xlabel=f"error of {self.quantity} ({self.unit})",
            ylabel="structures",
            xlim=(-reach, reach),
        )
        axis.set_title(self.title, fontsize=TITLE)
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])
        middle = (
            f"median {np.median(self.errors):+.3f} {self.unit}\n(dashed)\nmean"
            f" {self.errors.mean():+.3f} {self.unit}"
        )
        shaded = "" if self.threshold is None else f"\nshaded: ±{self.threshold:g} {self.unit}"
        _write(axis, middle + shaded, "left", "top")
        _say_outside(axis, outside, "right", "top")


Panel = Parity | Distribution


def draw_panels(panels: Sequence[Panel], path: Path) -> Path:
    """Draw panels into one PNG, up to three in a row and more in a square grid; return its path."""
    n = len(panels)
    columns = n if n <= ROW else math.ceil(math.sqrt(n))
    figure, axes = _figure(columns, math.ceil(n / columns))
    for axis in axes[n:]:
        axis.remove()
    for panel, axis in zip(panels, axes, strict=False):
        panel.draw(figure, axis)
    return save(figure, path)


def _range(values: np.ndarray, margin: float) -> tuple[float, float]:
    """Find the limits of an axis with margins; of many values the few extreme ones are left out.

    The range is never empty.
    """
    tail = (1 - SHARE) / 4 if len(values) > MANY else 0.0
    low, high = (float(np.quantile(values, q)) for q in (tail, 1 - tail))
    room = max(margin * (high - low), TINY)
    return low - room, high + room


def _in_words(errors: np.ndarray, unit: str, threshold: float | None) -> str:
    lines = [f"MAE {mae(errors):.3f} {unit}", f"RMSE {rmse(errors):.3f} {unit}"]
    if threshold is not None:
        lines.append(
            f"within {threshold:g} {unit}: {energy_within_threshold(errors, threshold):.0%}"
        )
    return "\n".join([*lines, f"n = {len(errors):,}"])


def _say_outside(axis: Any, number: int, across: str, up: str) -> None:
    if number:
        _write(axis, f"{number:,} not shown:\nbeyond the axes", across, up)


def _write(axis: Any, text: str, across: str, up: str) -> None:
    """Write text in a corner of a panel."""
    place = (0.03 if across == "left" else 0.97, 0.97 if up == "top" else 0.03)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axis.text(*place, text, transform=axis.transAxes, ha=across, va=up, fontsize=CORNER, bbox=box)


def _figure(columns: int, rows: int = 1) -> tuple[Any, list[Any]]:
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, k + 1) for k in range(rows * columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Any, path: Path) -> Path:
    """Write a matplotlib figure as a PNG with a reduced palette; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    from PIL import Image

    whole = BytesIO()
    figure.savefig(whole, dpi=DPI)
    with Image.open(whole) as image:
        image.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path
