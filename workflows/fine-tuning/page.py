"""Write the table and the plot of the learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

KINDS = {"tuned": ("fine-tuned", "#1f5fa8"), "scratch": ("from random weights", "#d97904")}
MARKER = "table"


def write_page(results: Sequence[dict[str, Any]], folder: Path) -> None:
    """Renew the table between the markers of README.md, and learning-curve.png."""
    readme = folder / "README.md"
    head, rest = readme.read_text().split(f"<!-- {MARKER} -->")
    _, tail = rest.split(f"<!-- /{MARKER} -->")
    readme.write_text(f"{head}<!-- {MARKER} -->\n{_table(results)}\n<!-- /{MARKER} -->{tail}")
    _draw(results, folder / "learning-curve.png")


def _kind(result: dict[str, Any]) -> str:
    return "none" if not result["relaxations"] else result["name"].split("-")[0]


COLUMNS = {  # part and name of a figure, its heading, its digits
    ("errors", "force_mae"): ("force MAE (eV/Å)", 4),
    ("errors", "energy_mae"): ("energy MAE (eV)", 3),
    ("relaxed", "energy_mae"): ("e_ads MAE after relaxation (eV)", 3),
    ("relaxed", "distance"): ("mean distance (Å)", 3),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Runs of one kind on equally many relaxations.

    Attributes:
        kind, relaxations: which.
        frames: mean number to learn from.
        runs: how many.
        values: of each of `COLUMNS`, one for each run.
    """

    kind: str
    relaxations: int
    frames: float
    runs: int
    values: dict[tuple[str, str], list[float]]


def _points(results: Sequence[dict[str, Any]]) -> list[Point]:
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for one in results:
        groups.setdefault((one["relaxations"], _kind(one)), []).append(one)
    return [
        Point(
            kind=kind,
            relaxations=n,
            frames=float(np.mean([one["frames"] for one in some])),
            runs=len(some),
            values={(part, name): [one[part][name] for one in some] for part, name in COLUMNS},
        )
        for (n, kind), some in sorted(groups.items())
    ]


def _table(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| "
        + " | ".join(
            [
                "model",
                "relaxations on palladium",
                "draws",
                "frames",
                *(label for label, _ in COLUMNS.values()),
            ]
        )
        + " |"
    ]
    lines.append("|---" * (len(COLUMNS) + 4) + "|")
    for point in _points(results):
        name = KINDS[point.kind][0] if point.kind in KINDS else "without palladium"
        cells = [_cell(point.values[key], digits) for key, (_, digits) in COLUMNS.items()]
        lines.append(
            f"| {name} | {point.relaxations} | {point.runs} | {point.frames:.0f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    """Mean, and from smallest to largest where there are several."""
    mean = f"{np.mean(values):.{digits}f}"
    return (
        mean
        if len(values) == 1
        else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    )


def _draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    figure, points = Figure(figsize=(12, 4.0), layout="constrained"), _points(results)
    shown = list(COLUMNS)[:3]
    for axis, key in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for kind, (word, color) in KINDS.items():
            some = [point for point in points if point.kind == kind]
            at, means = (
                [point.frames for point in some],
                [float(np.mean(point.values[key])) for point in some],
            )
            axis.plot(at, means, "-", color=color, label=word)
            for point in some:
                axis.plot([point.frames] * point.runs, point.values[key], "o", ms=4, color=color)
        for point in (point for point in points if not point.relaxations):
            axis.axhline(
                point.values[key][0], color="gray", lw=1, ls="--", label="without palladium"
            )
            axis.axhline(point.values[key][0] / 2, color="gray", lw=1, ls=":", label="half of it")
        scale = "log" if any(point.relaxations for point in points) else "linear"
        axis.set(xlabel="own DFT frames", ylabel=COLUMNS[key][0], xscale=scale, yscale="log")
        for direction in (axis.xaxis, axis.yaxis):
            direction.set_major_locator(LogLocator(subs=(1, 2, 5)))
            direction.set_major_formatter("{x:g}")
            direction.set_minor_formatter(NullFormatter())
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
