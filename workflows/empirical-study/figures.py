"""Plot every row of a table as a point with its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from page import COLUMNS
from results import Results
from rows import Row, Tables

BLUE, GREY = "#2f6db3", "#8a8a8a"
TITLES = {
    "canonicalization": "canonicalization",
    "graphs": "graphs",
    "ewald": "Ewald message passing",
    "noisy-nodes": "Noisy Nodes",
    "iterative": "iterative and direct",
}
FILE = "{}.png"
ROW_HEIGHT, WIDTH = 0.27, 7.2  # inches


def draw(tables: Tables, results: Results, folder: Path) -> None:
    """One picture for each table that has numbers: energy errors of single seeds and their mean,
    and EwT.
    """
    for table, title in TITLES.items():
        rows = [
            row
            for row in tables.rows
            if row.table == table and results.seeds(table, row.name, COLUMNS[table][0].quantity)
        ]
        if rows:
            _draw_table(rows, results, title, folder / FILE.format(table))


def _draw_table(rows: Sequence[Row], results: Results, title: str, path: Path) -> None:
    figure = Figure(figsize=(WIDTH, 0.95 + ROW_HEIGHT * len(rows)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column in zip(panels, COLUMNS[rows[0].table][:2], strict=True):
        for place, row in enumerate(reversed(rows)):
            values = [
                column.scale * value
                for value in results.seeds(row.table, row.name, column.quantity).values()
            ]
            axes.plot(values, [place] * len(values), "|", color=GREY, markersize=7)
            axes.plot([sum(values) / len(values)], [place], "o", color=BLUE, markersize=5)
        _finish(axes, column.heading)
    panels[0].set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    panels[0].set_ylim(-0.6, len(rows) - 0.4)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.savefig(path, dpi=110)


def _finish(axes: Axes, heading: str) -> None:
    axes.set_xlabel(heading, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
