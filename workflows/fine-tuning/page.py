"""The table and the picture of the learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

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


def _table(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| model | relaxations on palladium | frames | force MAE (eV/Å) | energy MAE (eV) | e_ads MAE after relaxation | mean distance (Å) |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in sorted(results, key=lambda r: (r["relaxations"], _kind(r))):
        name = KINDS[_kind(one)][0] if _kind(one) in KINDS else "without palladium"
        frames, relaxed = one["errors"], one["relaxed"]
        lines.append(
            f"| {name} | {one['relaxations']} | {one['frames']} | {frames['force_mae']:.4f} | {frames['energy_mae']:.3f} "
            f"| {relaxed['energy_mae']:.3f} | {relaxed['distance']:.3f} |"
        )
    return "\n".join(lines)


def _draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    columns = (("errors", "force_mae", "force MAE on held-out frames (eV/Å)"), ("errors", "energy_mae", "energy MAE (eV)"))
    for axis, (part, name, label) in zip(figure.subplots(1, 2), columns, strict=True):
        for kind, (word, colour) in KINDS.items():
            some = sorted((r for r in results if _kind(r) == kind), key=lambda r: r["frames"])
            axis.plot([r["frames"] for r in some], [r[part][name] for r in some], "o-", color=colour, label=word)
        for one in (r for r in results if not r["relaxations"]):
            axis.axhline(one[part][name], color="grey", lw=1, ls="--", label="without palladium")
        scale = "log" if any(r["relaxations"] for r in results) else "linear"
        axis.set(xlabel="own DFT frames", ylabel=label, xscale=scale, yscale="log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
