"""Plots of symmetry breaking: length of each irrep in a layer, and the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geocalc.evaluation.plots import BLUE, GREY, ORANGE, TITLE, require_matplotlib, save
from geocalc.symmetry.invariants import Part, harmonics
from geocalc.symmetry.report import Component, LayerBreaking, SymmetryBreaking

WIDTHS = (2.2, 1.0, 1.0)  # of bars and shapes
LAYER = 2.7  # inches, of a row
ANGLES = (41, 81)  # polar and azimuthal points of a shape
TENSORS, PSEUDOTENSORS = 1, -1  # (-1)^l times parity
SHAPES = {TENSORS: "1o, 2e, 3o, 4e, …", PSEUDOTENSORS: "0o, 1e, 2o, 3e, …"}
PLUS, MINUS = "#3a9188", "#b9557a"  # where a shape is of either sign
SMALL = 8  # points


def plot_breaking(breaking: SymmetryBreaking, path: Path | str) -> Path:
    """Plot the relaxed weights of each layer: lengths of the irreps, and two shapes.

    The lengths are split into the part that is invariant under the group and the rest. The first
    shape is r(n) = |sum over l and m of theta_lm Y_lm(n)| over the irreps that transform like
    harmonics (1o, 2e, 3o, ...), the second the same over those with the opposite parity (0o, 1e,
    2o, ...). 0e is left out. Copies are added in quadrature.

    Args:
        breaking: result of `geocalc.symmetry_breaking`.
        path: PNG file to write.
    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, LAYER * len(breaking.layers) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(breaking.layers), 3, width_ratios=WIDTHS)
    for row, layer in enumerate(breaking.layers):
        _bars(figure.add_subplot(grid[row, 0]), layer, breaking.group, row == 0)
        for column, kind in enumerate((TENSORS, PSEUDOTENSORS), start=1):
            _shape(figure.add_subplot(grid[row, column], projection="3d"), layer, kind, row == 0)
    figure.suptitle(f"symmetry left: {breaking.symmetry}", fontsize=TITLE + 2)
    return save(figure, Path(path))


def _bars(axis: Any, layer: LayerBreaking, group: str | None, first: bool) -> None:
    """Draw the length of each irrep other than 0e, over all copies."""
    names = list(dict.fromkeys(one.irrep for one in layer.components if not one.is_scalar))
    kept, rest = np.array([_lengths(layer, name) for name in names]).reshape(-1, 2).T
    where = np.arange(len(names))
    if group is None:
        axis.bar(where, kept + rest, color=GREY)
    else:
        axis.bar(where, kept, color=BLUE, label=f"kept by {group}")
        axis.bar(where, rest, bottom=kept, color=ORANGE, label="changed by it")
    if not kept.any() and not rest.any():
        axis.text(
            0.5,
            0.5,
            "nothing is broken",
            transform=axis.transAxes,
            ha="center",
            va="center",
            color=GREY,
        )
    if group is not None and first:
        axis.legend(frameon=False, fontsize=SMALL)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xticks(where, names)
    top = float((kept + rest).max(initial=0.0))
    axis.set_ylim(0, 1.15 * top if top > 0 else 1.0)
    axis.set_ylabel("length")
    axis.set_title(f"{layer.name}: {layer.symmetry}", fontsize=TITLE, loc="left")


def _lengths(layer: LayerBreaking, irrep: str) -> tuple[float, float]:
    """Split the length of an irrep in proportion to its invariant and changed squared norm.

    Zero components and components without a group count as changed.
    """
    own = [one for one in layer.components if one.irrep == irrep and not one.is_zero]
    squared = sum(one.length**2 for one in own)
    if squared == 0:
        return 0.0, 0.0
    kept = sum(one.length**2 * (one.share or 0.0) for one in own) / squared
    return kept * squared**0.5, (1 - kept) * squared**0.5


def _shape(axis: Any, layer: LayerBreaking, kind: int, first: bool) -> None:
    """Draw the surface of the tensors or of the pseudotensors of a layer, scaled to the axes."""
    axis.set_axis_off()
    if first:
        axis.text2D(
            0.5,
            1.04,
            SHAPES[kind],
            transform=axis.transAxes,
            ha="center",
            va="bottom",
            fontsize=TITLE,
        )
    copies = _copies([one for one in layer.components if _drawn(one, kind)])
    if not copies:
        axis.text2D(
            0.5, 0.5, "zero", transform=axis.transAxes, ha="center", va="center", color=GREY
        )
        return
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, ANGLES[0]), np.linspace(0, 2 * np.pi, ANGLES[1]), indexing="ij"
    )
    directions = np.stack(
        (np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)), axis=-1
    )
    fields = np.stack([_field(parts, directions) for parts in copies])
    radius = np.sqrt((fields**2).sum(axis=0))
    radius = radius / radius.max()
    surface = directions * radius[..., None]
    axis.plot_surface(
        *np.moveaxis(surface, -1, 0),
        facecolors=_colors(surface, fields[0] if len(copies) == 1 else np.ones_like(radius)),
        rstride=1,
        cstride=1,
        linewidth=0,
        antialiased=False,
        shade=False,
    )
    for name, end in zip("xyz", 1.2 * np.eye(3), strict=True):
        axis.plot(*np.stack((0.0 * end, end)).T, color=GREY, lw=0.8)
        axis.text(*(1.1 * end), name, fontsize=SMALL, color="black", ha="center", va="center")
    axis.set(xlim=(-0.85, 0.85), ylim=(-0.85, 0.85), zlim=(-0.85, 0.85))
    axis.set_box_aspect((1, 1, 1), zoom=1.1)
    axis.view_init(elev=20, azim=35)


def _drawn(one: Component, kind: int) -> bool:
    """Return whether a component belongs to the tensors or pseudotensors of a shape."""
    return not one.is_scalar and not one.is_zero and one.parity * (-1) ** one.degree == kind


def _copies(components: Sequence[Component]) -> list[list[Part]]:
    """Group the components that are drawn as one field: those with the same copy number."""
    numbers = sorted({one.copy for one in components})
    return [[one for one in components if one.copy == number] for number in numbers]


def _field(parts: Sequence[Part], directions: np.ndarray) -> np.ndarray:
    """Sum theta Y over the components; the harmonics are orthonormal up to one factor."""
    total = np.zeros(directions.shape[:-1])
    for part in parts:
        total += (2 * part.degree + 1) ** 0.5 * harmonics(part.degree, directions) @ part.values
    return total


def _colors(surface: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Color the surface by the sign of the field, with Lambertian shading."""
    from matplotlib.colors import to_rgb

    along, across = np.gradient(surface, axis=0), np.gradient(surface, axis=1)
    normal = np.cross(along, across)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.array((0.55, 0.25, 0.8)) / np.linalg.norm((0.55, 0.25, 0.8))
    bright = 0.72 + 0.28 * (
        np.divide(normal, length, out=np.zeros_like(normal), where=length > 0) @ light
    )
    base = np.where((sign >= 0)[..., None], to_rgb(PLUS), to_rgb(MINUS))
    pale = 0.25 + 0.75 * base
    colors: np.ndarray = np.clip(pale * bright[..., None], 0, 1)
    return colors
