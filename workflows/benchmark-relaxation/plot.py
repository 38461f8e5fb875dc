"""Plot model calls, time with the shipped model and overhead as bars, and the time per structure
against the number of structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
ASE, OTHER, OURS = "#9aa0a6", "#d9822b", "#2f6db3"
CALLS_BUDGET = 20


def draw(found: dict[str, Rows], path: Path) -> None:
    """Draw the results `found`, by piece, to a PNG file."""
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.08)
    (calls, model), (overhead, scaling) = figure.subplots(2, 2)
    _calls(calls, found["calls"])
    _model(model, found["model"])
    _overhead(overhead, found["overhead"], found["torch-sim"])
    _scaling(scaling, found["scaling"])
    for axis in (calls, model, overhead, scaling):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _calls(axis: Axes, rows: Rows) -> None:
    chosen = [
        r
        for r in rows
        if r["kind"] == "hard" and r["seed"] == 0 and r["n"] == max(r["n"] for r in rows)
    ]
    by_name = {r["optimizer"]: r["calls_mean"] for r in chosen}
    names = ["ASE FIRE", "ASE BFGS", "ASE LBFGS", "ASE BFGSLineSearch", "geocalc quasi-newton"]
    values, base = [by_name[name] for name in names], by_name["ASE BFGS"]
    labels = [
        f"{v:.1f}" + (f"   {base / v:.1f}x fewer than BFGS" if name.startswith("geocalc") else "")
        for name, v in zip(names, values, strict=True)
    ]
    _bars(axis, names, values, labels)
    axis.axvline(CALLS_BUDGET, color="black", lw=0.8, ls=":", zorder=0)
    _title(axis, f"Model calls for each adslab (EMT, hard set of {chosen[0]['n']})")
    axis.set_xlabel("mean calls until fmax < 0.05 eV/Å; dotted: budget")


def _model(axis: Axes, rows: Rows) -> None:
    names = [
        r["way"]
        .replace("geocalc.relax ", "geocalc ")
        .replace(", 2 workers", "")
        .replace(", ", ",\n", 1)
        for r in rows
    ]
    labels = [
        f"{r['seconds']:.0f} s"
        + (f"   {r['faster']:.1f}x faster" if r["way"].startswith("geocalc") else "")
        for r in rows
    ]
    _bars(axis, names, [r["seconds"] for r in rows], labels)
    _title(axis, "128 adslabs on two cores")
    axis.set_xlabel("wall time (s), start of workers included")


def _overhead(axis: Axes, rows: Rows, torch_sim: Rows) -> None:
    at = {(r["n_atoms"], r["batch"], r["optimizer"]): r["ms"] for r in rows}
    free = {r["way"]: r["ms"] for r in torch_sim}
    shown = {
        "ASE FIRE": at[37, 1, "ASE FIRE"],
        "ASE BFGS": at[37, 1, "ASE BFGS"],
        "torch-sim FIRE,\nnothing fixed": free["torch-sim optimize, FIRE"],
        "geocalc fire,\nnothing fixed": free["geocalc fire"],
        "geocalc fire": at[37, 32, "geocalc fire"],
        "geocalc lbfgs": at[37, 32, "geocalc lbfgs"],
        "geocalc bfgs": at[37, 32, "geocalc bfgs"],
        "geocalc quasi-newton": at[37, 32, "geocalc quasi-newton"],
    }
    base = shown["ASE BFGS"]
    labels = [
        f"{ms:.3f}"
        + (f"   {base / ms:.0f}x less than ASE BFGS" if name.startswith("geocalc") else "")
        for name, ms in shown.items()
    ]
    _bars(axis, list(shown), list(shown.values()), labels)
    axis.set_xscale("log")
    axis.set_xlim(0.4 * min(shown.values()), 20 * max(shown.values()))
    _title(axis, "Time outside the model, slabs of 37 atoms")
    axis.set_xlabel("ms for each slab and model call (log scale)")


def _scaling(axis: Axes, rows: Rows) -> None:
    ways = list(dict.fromkeys(r["way"] for r in rows))
    for way, color, mark in zip(ways, (ASE, OTHER, OURS), "os^", strict=False):
        points = [(r["n"], r["ms_each"]) for r in rows if r["way"] == way]
        axis.loglog(*zip(*points, strict=True), f"{mark}-", color=color, ms=5, lw=1.5, label=way)
    axis.legend(frameon=False, fontsize=9)
    _title(axis, "Time of each structure")
    axis.set_xlabel("structures in one call")
    axis.set_ylabel("ms for each (log scale)")


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=11, loc="left", weight="bold")


def _bars(axis: Axes, names: Sequence[str], values: Sequence[float], labels: Sequence[str]) -> None:
    colors = [
        OURS if name.startswith("geocalc") else ASE if name.startswith("ASE") else OTHER
        for name in names
    ]
    bars = axis.barh(range(len(names)), values, color=colors, height=0.7)
    for text in axis.bar_label(bars, labels, padding=4, fontsize=9):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.invert_yaxis()
    axis.margins(x=0.3)
