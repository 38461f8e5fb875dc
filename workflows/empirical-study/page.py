"""Write tables, verdicts and plots between the markers of README.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from claims import UNTESTED, judge, read_claims
from results import Mean, Results
from rows import HERE, Row, Tables

PAGE, NOTHING = "README.md", "–"


@dataclass(frozen=True)
class Column:
    """A quantity on the page: its heading, and its numbers times `scale` with so many decimals."""

    heading: str
    quantity: str
    scale: float = 1.0
    decimals: int = 3


ENERGY = (
    Column("energy MAE (meV)", "energy_mae", 1000, 0),
    Column("EwT (%)", "within_0p02", 100, 1),
)
SPEED = Column("structures/s", "structures_per_s", 1, 0)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "canonicalization": (
        *ENERGY,
        Column("canonicalizer parameters", "canonicalizer_parameters", 1, 0),
        SPEED,
    ),
    "graphs": (*ENERGY, SPEED),
    "ewald": (*ENERGY, Column("parameters (1000)", "parameters", 0.001, 0), SPEED),
    "noisy-nodes": (
        *ENERGY,
        Column("position MAE (mÅ)", "position_mae", 1000, 1),
        Column("MAD of neighbors, last block", "mad_last", 1, 2),
        Column("MAD of all pairs", "mad_last_all", 1, 2),
    ),
    "iterative": (
        Column("energy MAE (meV)", "e_mae", 1000, 0),
        Column("EwT (%)", "ewt", 100, 1),
        Column("position MAE (mÅ)", "x_mae", 1000, 1),
        Column("ADwT (%)", "adwt", 100, 1),
        Column("force MAE (meV/Å)", "force_mae", 1000, 1),
        Column("converged (%)", "relaxed_converged", 100, 0),
        Column("model calls", "relaxed_model_calls", 1, 1),
    ),
}
SYMMETRY = {  # headings of the errors that canonicalization is about, eV
    "rotation_z_energy": "rotation about z",
    "rotation_energy": "rotation about any axis",
    "reflection_z_energy": "reflection",
    "rewrap_energy": "re-wrapping",
    "batch_energy": "single instead of in a batch",
    "repeat_energy": "repeated call",
}


def write_page(tables: Tables, results: Results, path: Path) -> None:
    """Renew every table of the page at `path`."""
    text = path.read_text()
    for table in dict.fromkeys(row.table for row in tables.rows):
        rows = [row for row in tables.rows if row.table == table]
        text = _between(text, table, _table(rows, results))
    text = _between(
        text,
        "symmetry",
        _symmetry([row for row in tables.rows if row.table == "canonicalization"], results),
    )
    text = _between(text, "claims", _claims(results))
    path.write_text(text)


def _between(text: str, marker: str, content: str) -> str:
    head, rest = text.split(f"<!-- {marker} -->\n")
    return f"{head}<!-- {marker} -->\n{content}\n<!-- /{marker} -->{rest.split(f'<!-- /{marker} -->')[1]}"


def _table(rows: Sequence[Row], results: Results) -> str:
    """Means over seeds with their standard errors, and the picture of them."""
    table, columns = rows[0].table, COLUMNS[rows[0].table]
    shown = [row for row in rows if results.mean(row.table, row.name, columns[0].quantity)]
    if not shown:
        return "Not measured yet."
    poster = any(row.poster for row in shown)
    lines = [
        ["row", *(column.heading for column in columns), *(["poster"] if poster else []), "seeds"]
    ]
    for row in shown:
        cells = [
            _cell(results.mean(row.table, row.name, column.quantity), column) for column in columns
        ]
        n = len(results.seeds(row.table, row.name, columns[0].quantity))
        lines.append([row.label, *cells, *([row.poster or NOTHING] if poster else []), str(n)])
    return f"{_markdown(lines)}\n\n![{table}: energy MAE and EwT of each row]({table}.png)"


def _cell(mean: Mean | None, column: Column) -> str:
    if mean is None:
        return NOTHING
    value = f"{mean.value * column.scale:.{column.decimals}f}"
    return (
        value
        if math.isnan(mean.error) or mean.error == 0
        else f"{value} ± {mean.error * column.scale:.{column.decimals}f}"
    )


def _symmetry(rows: Sequence[Row], results: Results) -> str:
    """Mean changes of the energy (eV), with one digit: exact symmetries show as rounding errors."""
    lines = [["row", *SYMMETRY.values()]]
    for row in rows:
        means = [results.mean(row.table, row.name, quantity) for quantity in SYMMETRY]
        if any(means):
            lines.append(
                [row.label, *(NOTHING if mean is None else _small(mean.value) for mean in means)]
            )
    return _markdown(lines)


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")


def _claims(results: Results) -> str:
    lines = [["claim of the poster", "result", "difference (95 % interval)", "pairs of runs"]]
    for claim in read_claims(HERE / "claims.yaml"):
        verdict = judge(claim, results)
        told = NOTHING
        if verdict.word != UNTESTED:
            value, half = verdict.difference * claim.scale, verdict.half_width * claim.scale
            decimals = 0 if abs(half) >= 10 else 1 if abs(half) >= 1 else 2
            told = f"{value:+.{decimals}f} ± {half:.{decimals}f} {claim.unit}".rstrip()
        lines.append([claim.text, verdict.word, told, str(verdict.n)])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest))
