"""Write results.json and the tables of README.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from adslabs import Judged
from adslabs_report import NoForce, difference_table, error_table, theta_table
from broken import ThetaPart, worst_forbidden
from field import angle
from longer import Carded, model_table, normal_table
from record import FieldFit, Fit

SHOWN = 1e-6  # of the longest in its layer; what is shorter is rounding
ABSENT = 1e-3  # of 0e; a lasso has made what is shorter disappear
SHAPE_HEAD = (
    "task",
    "remaining symmetry",
    "mean square",
    "error, equivariant",
    "best equivariant",
    "error, relaxed",
    "symmetry of theta",
    "forbidden",
)
PART_HEAD = ("task", "layer", "0e", "0o", "1e", "1o", "2e", "2o", "3e", "3o", "4e", "4o")
FIELD_HEAD = ("fields", "network", "error", "layer", "angle of 1o to E", "angle of 1e to B")


def write(
    shapes: Sequence[Fit],
    fields: Sequence[FieldFit],
    phases: Sequence[Fit],
    judged: Sequence[Judged],
    nothing: NoForce | None,
    models: Sequence[Carded],
    folder: Path,
) -> None:
    """results.json, and the tables between their marks in README.md"""
    runs = {
        name: [_short(asdict(fit)) for fit in fits]
        for name, fits in (
            ("shapes", shapes),
            ("field", fields),
            ("phases", phases),
            ("adslabs", judged),
        )
    }
    (folder / "results.json").write_text(json.dumps(runs) + "\n")
    text = (folder / "README.md").read_text()
    text = put(text, "shapes", [*fit_table(shapes), "", *part_table(shapes)])
    text = put(text, "field", field_table(fields))
    text = put(text, "phases", [*fit_table(phases), "", *part_table(phases)])
    if nothing is not None:
        text = put(text, "adslabs", [error_table(judged, nothing), "", difference_table(judged)])
        text = put(text, "normal", [theta_table(judged)])
    if models:
        text = put(text, "longer", [model_table(models), "", normal_table(models)])
    (folder / "README.md").write_text(text)


def put(text: str, mark: str, lines: Iterable[str]) -> str:
    """A page with other lines between two marks."""
    before, rest = text.split(f"<!-- {mark} -->")
    _, after = rest.split(f"<!-- /{mark} -->")
    return f"{before}<!-- {mark} -->\n" + "\n".join(lines) + f"\n<!-- /{mark} -->{after}"


def fit_table(fits: Sequence[Fit]) -> list[str]:
    """A line for each task: the worst of all seeds."""
    lines = _head(SHAPE_HEAD)
    for name, group in groupby(fits, lambda fit: fit.name):
        some = list(group)
        plain, relaxed = (
            [fit for fit in some if fit.network == network]
            for network in ("equivariant", "relaxed")
        )
        row = (
            name,
            some[0].group,
            f"{some[0].target:.6f}",
            f"{max(fit.loss for fit in plain):.6f}",
            f"{some[0].floor:.6f}",
            _rounding(max(fit.loss for fit in relaxed)),
            ", ".join(sorted({fit.recovered for fit in relaxed})),
            _rounding(max(worst_forbidden(fit.parts) for fit in relaxed)),
        )
        lines.append(f"| {' | '.join(row)} |")
    return lines


def part_table(fits: Sequence[Fit]) -> list[str]:
    """Lengths of the irreps in every layer of the relaxed network with the first seed."""
    first = [fit for fit in fits if fit.network == "relaxed" and fit.seed == fits[0].seed]
    names = [part.irrep for part in first[0].parts if part.layer == 1]
    order = [name for name in PART_HEAD if name in names]
    lines = _head(("task", "layer", *order))
    for fit in first:
        for layer, group in groupby(fit.parts, lambda part: part.layer):
            parts = {part.irrep: part for part in group}
            most = max(part.length for part in parts.values())
            told = [_length(parts[name], most) for name in order]
            lines.append(f"| {fit.name} | {layer} | {' | '.join(told)} |")
    return lines


def field_table(fits: Sequence[FieldFit]) -> list[str]:
    """A line for each kind of fields and layer: the largest of all seeds."""
    lines = _head(FIELD_HEAD)
    ordered = sorted(fits, key=lambda fit: (fit.fields != fits[0].fields, fit.fields, fit.name))
    for (kind, name), group in groupby(ordered, lambda fit: (fit.fields, fit.name)):
        some = list(group)
        error = f"{max(fit.loss / fit.target for fit in some):.2g}"
        layers = sorted({part.layer for part in some[0].parts if part.irrep == "1o"})
        for layer in layers:
            electric = [_angle(fit, layer, "1o", fit.electric) for fit in some]
            magnetic = [_angle(fit, layer, "1e", fit.magnetic) for fit in some]
            lines.append(
                f"| {kind} | {name} | {error} | {layer} | {', '.join(electric)} | {', '.join(magnetic)} |"
            )
        if not layers:
            lines.append(f"| {kind} | {name} | {error} | – | – | – |")
    return lines


def _angle(fit: FieldFit, layer: int, irrep: str, direction: Sequence[float]) -> str:
    parts = {part.irrep: part for part in fit.parts if part.layer == layer}
    if parts[irrep].length < ABSENT * parts["0e"].length:
        return "none"
    return f"{angle(fit.parts, layer, irrep, direction):.2f}°"


def _short(value: object) -> object:
    """The same with six digits of every number."""
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(one) for one in value]
    return float(f"{value:.5e}") if isinstance(value, float) else value


def _length(part: ThetaPart, most: float) -> str:
    return f"{part.length:.2g}" if part.length > SHOWN * most else "0"


def _rounding(value: float) -> str:
    return f"{value:.0e}"


def _head(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
