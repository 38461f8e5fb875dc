"""Pictures; the only module that uses matplotlib."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from geocalc.errors import MissingDependencyError

BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#8a8a8a"
DPI = 130


def require_matplotlib() -> None:
    """Raise unless matplotlib is installed.

    Raises:
        MissingDependencyError: it is not; the message names the extra.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("pictures need matplotlib; install it with: pip install 'geocalc[plot]'")


def learning_curve(points: Mapping[str, Sequence[tuple[int, float, float]]], path: Path) -> Path:
    """Validation errors against steps, energies left and forces right, one line per source.

    Args:
        points: for each source (step, energy MAE in eV, force MAE in eV/Angstrom). path: PNG to write.
    """
    figure, axes = _figure(2)
    for (source, rows), color in zip(points.items(), itertools.cycle((BLUE, ORANGE, GREY, "black")), strict=False):
        table = np.array(rows)
        for axis, column in zip(axes, (1, 2), strict=True):
            axis.plot(table[:, 0], table[:, column], "o-", ms=3, color=color, label=Path(source).parent.name or source)
    for axis, name in zip(axes, ("energy MAE (eV)", "force MAE, free atoms (eV/Å)"), strict=True):
        axis.set(xlabel="step", ylabel=name, yscale="log")
    axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, path)


def parity(predicted: np.ndarray, reference: np.ndarray, quantity: str, path: Path) -> Path:
    """Predicted against reference values, (n,) each; `quantity` names them with their unit."""
    figure, (axis,) = _figure(1)
    low, high = float(min(predicted.min(), reference.min())), float(max(predicted.max(), reference.max()))
    axis.plot([low, high], [low, high], color=GREY, lw=1)
    axis.scatter(reference, predicted, s=8, alpha=0.5, color=BLUE, linewidths=0)
    error = float(np.abs(predicted - reference).mean())
    axis.set(xlabel=f"reference {quantity}", ylabel=f"predicted {quantity}", title=f"MAE {error:.3f}, n = {len(predicted)}")
    axis.set_aspect("equal", adjustable="datalim")
    return _save(figure, path)


def _figure(columns: int) -> tuple[Any, list[Any]]:
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, 3.6), layout="constrained")
    axes = [figure.add_subplot(1, columns, k + 1) for k in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
