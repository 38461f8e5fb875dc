"""Broken symmetry as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geocalc.symmetry.stabilisers import direction_text

if TYPE_CHECKING:
    from geocalc.symmetry.report import Axes, Component, LayerBreaking, SymmetryBreaking

NOTHING = "-"
VECTOR = {1: "axial vector", -1: "polar vector"}  # by parity


def breaking_text(breaking: SymmetryBreaking) -> str:
    """A line for each component, and for each layer the symmetry that is left."""
    judged = breaking.group is not None
    heads = ["layer", "irrep", "length", "/ 0e", *(["kept", "space"] if judged else []), "direction"]
    table = _aligned([heads, *(_row(layer, one, judged) for layer in breaking.layers for one in layer.components)])
    lines, left = [_title(breaking), "", table[0]], " " * (2 + max(len(name) for name in ["layer", *_names(breaking)]))
    rows = iter(table[1:])
    for layer in breaking.layers:
        shown = [row for one, row in zip(layer.components, rows, strict=False) if not one.is_zero]
        name = f"{layer.name:<{len(left)}}"
        lines += [name + row[len(left) :] if k == 0 else left + row[len(left) :] for k, row in enumerate(shown)]
        zero = [_irrep(layer, one) for one in layer.components if one.is_zero]
        lines += [f"{left}zero: {', '.join(zero)}"] if zero else []
        lines += [f"{left}{_left(layer)}"]
    if judged:
        lines += [
            "",
            f"kept: share of the squared length that {breaking.group} leaves as it is; space: dimension of all it leaves",
        ]
    return "\n".join(line.rstrip() for line in lines)


def _names(breaking: SymmetryBreaking) -> list[str]:
    return [layer.name for layer in breaking.layers]


def _row(layer: LayerBreaking, one: Component, judged: bool) -> list[str]:
    relative = NOTHING if one.relative is None else f"{one.relative:.4f}"
    group = [_share(one), f"{one.dimension} of {len(one.values)}"] if judged else []
    return [layer.name, _irrep(layer, one), f"{one.length:.4f}", relative, *group, _direction(one)]


def _irrep(layer: LayerBreaking, one: Component) -> str:
    """Its name, with the number of the copy where there are several."""
    alone = all(other.copy == 0 for other in layer.components if other.irrep == one.irrep)
    return one.irrep if alone else f"{one.irrep} {one.copy + 1}"


def _title(breaking: SymmetryBreaking) -> str:
    number = len(breaking.layers)
    layers = "1 layer" if number == 1 else f"{number} layers"
    if breaking.symmetry.schoenflies == "O(3)":
        return f"relaxed weights of {layers}: nothing is broken, the network is equivariant under O(3)"
    return f"relaxed weights of {layers}: the symmetry left is {breaking.symmetry}"


def _left(layer: LayerBreaking) -> str:
    if layer.symmetry.schoenflies == "O(3)":
        return "nothing is broken: O(3)"
    return f"left: {layer.symmetry}"


def _share(one: Component) -> str:
    return NOTHING if one.share is None else f"{one.share:.2%}"


def _direction(one: Component) -> str:
    if one.direction is not None:
        return f"{VECTOR[one.parity]} {direction_text(one.direction)}"
    return "" if one.axes is None else _axes(one.axes)


def _axes(axes: Axes) -> str:
    """The first axis and the sizes along all three, the largest being 2."""
    sizes = " : ".join(f"{2 * value / axes.values[0]:+.2f}" for value in axes.values)
    return f"axis {direction_text(axes.vectors[0])}, axes {sizes}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Cells below each other: names to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            f"{cell:<{width}}" if k in (0, 1, last) else f"{cell:>{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
