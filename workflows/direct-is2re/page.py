"""Write the tables of the cross-validation."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import splits

from geocalc.evaluation import energy_within_threshold, mae, rmse

TARGETS = {"e_ads": "adsorption energy", "total": "total energy"}
LARGE = "large.json"
PEERS = {"GemNet-dT": "lmdb_fg_full_poscar/gemnet", "PaiNN": "lmdb_fg_full_poscar/painn"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Errors on one held-out set: eV and Angstrom."""

    target: str
    split: str
    n: int
    mae: float
    median: float
    rmse: float
    within_0p02: float
    position_mae: float
    position_null: float


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """One structure that was held out."""

    sid: str
    energy: float
    reference: float
    position_mae: float
    position_null: float
    n_free: int

    @property
    def error(self) -> float:
        """eV."""
        return self.energy - self.reference


def collect(runs: Path, before: dict[str, Any]) -> dict[str, Any]:
    """All there is: rows by split, and by family and metal over the folds; from `before` where
    `runs` has nothing.
    """
    known = {str(atoms.info["sid"]): atoms.info for atoms in splits.structures()}
    rows = {(row["target"], row["split"]): row for row in before["rows"]}
    groups: dict[str, dict[str, dict[str, float]]] = before["groups"]
    for target in TARGETS:
        pooled: list[Predicted] = []
        for file in sorted(runs.glob(f"{target}-*/predictions.csv")):
            name, predicted = file.parent.name.removeprefix(f"{target}-"), read_predictions(file)
            rows[target, name] = asdict(_row(target, name, predicted))
            pooled += predicted if name.startswith("fold") else []
        if len(pooled) == sum(
            row["n"]
            for row in rows.values()
            if row["target"] == target and row["split"].startswith("fold")
        ):
            for key in ("group", "metal"):
                groups[f"{target} by {key}"] = _by(
                    pooled, lambda sid, key=key: str(known[sid][key])
                )
    large = json.loads((runs / LARGE).read_text()) if (runs / LARGE).exists() else before["large"]
    ordered = sorted(
        rows.values(), key=lambda row: (list(TARGETS).index(row["target"]), row["split"])
    )
    return {"rows": ordered, "groups": groups, "peers": _peers(), "large": large}


def read_predictions(path: Path) -> list[Predicted]:
    """Predictions of a network for structures that it has not seen."""
    with path.open() as handle:
        return [
            Predicted(
                sid=line.pop("sid"),
                n_free=int(line.pop("n_free")),
                **{k: float(v) for k, v in line.items()},
            )
            for line in csv.DictReader(handle)
        ]


def _row(target: str, name: str, predicted: Sequence[Predicted]) -> Row:
    error, weight = (
        np.array([p.error for p in predicted]),
        np.array([p.n_free for p in predicted], dtype=float),
    )
    return Row(
        target=target,
        split=name,
        n=len(error),
        mae=mae(error),
        median=float(np.median(np.abs(error))),
        rmse=rmse(error),
        within_0p02=energy_within_threshold(error),
        position_mae=float(np.average([p.position_mae for p in predicted], weights=weight)),
        position_null=float(np.average([p.position_null for p in predicted], weights=weight)),
    )


def _by(
    predicted: Iterable[Predicted], name_of: Callable[[str], str]
) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {}
    for one in predicted:
        found.setdefault(name_of(one.sid), []).append(abs(one.error))
    return {name: _group(np.array(errors)) for name, errors in sorted(found.items())}


def _group(errors: np.ndarray) -> dict[str, float]:
    """Mean absolute error with its standard error (eV), and the share within 0.02 eV."""
    error = float(errors.std(ddof=1) / math.sqrt(len(errors))) if len(errors) > 1 else float("nan")
    within = energy_within_threshold(errors)
    return {
        "n": len(errors),
        "mae": float(errors.mean()),
        "mae_error": error,
        "within_0p02": within,
        "within_error": math.sqrt(within * (1 - within) / len(errors)),
    }


def _peers() -> dict[str, float]:
    """Mean error of each published peer over its runs on folds 1 to 4; four runs, one for each
    inner split, belong to a fold.
    """
    path = Path(os.environ["GEOCALC_DATA"]) / splits.DATA / "published_ocp_baselines_mae_eV.json"
    published = json.loads(path.read_text())
    return {
        name: float(np.mean(published[key]["mae_per_run_adslab_only"][4:]))
        for name, key in PEERS.items()
    }


def write(results: dict[str, Any], readme: Path) -> None:
    """Renew the tables between the markers of the page."""
    rows = [Row(**row) for row in results["rows"]]
    text = readme.read_text()
    for name, table in (
        ("folds", _folds(rows, results["peers"])),
        ("harder", _harder(rows)),
        ("large", large_text(results["large"])),
        ("groups", _groups(results["groups"])),
    ):
        head, rest = text.split(f"<!-- {name} -->")
        _, tail = rest.split(f"<!-- /{name} -->")
        text = f"{head}<!-- {name} -->\n{table}\n<!-- /{name} -->{tail}"
    readme.write_text(text)


HEAD = "| target | held out | structures | MAE (eV) | median | RMSE | within 0.02 eV | position MAE (Å) | baseline (unrelaxed) |"
LINE = "|---|---|---|---|---|---|---|---|---|"


def line(row: Row) -> str:
    """A row of a table under `HEAD`."""
    return _line(row, row.split, "", "")


def mean_line(rows: Sequence[Row]) -> str:
    """The row of the means over folds, with their standard errors."""
    mae_error = _standard_error([row.mae for row in rows])
    within_error = _standard_error([row.within_0p02 for row in rows])
    return _line(
        _mean(rows),
        f"mean of {len(rows)} folds",
        f" ± {mae_error:.3f}",
        f" ± {100 * within_error:.0f}",
    )


def _line(row: Row, held_out: str, spread: str, within_spread: str) -> str:
    return (
        f"| {TARGETS[row.target]} | {held_out} | {row.n} | {row.mae:.3f}{spread} | {row.median:.3f} | {row.rmse:.3f} "
        f"| {100 * row.within_0p02:.0f}{within_spread} % | {row.position_mae:.3f} | {row.position_null:.3f} |"
    )


def _folds(rows: Sequence[Row], peers: dict[str, float]) -> str:
    lines = [HEAD, LINE]
    for target in TARGETS:
        folds = [row for row in rows if row.target == target and row.split.startswith("fold")]
        lines += [line(row) for row in folds]
        if len(folds) > 1:
            lines.append(mean_line(folds))
    for name, value in peers.items():
        lines.append(
            f"| total energy, {name} as published | mean of folds 1 to 4 | | {value:.3f} | | | | | |"
        )
    return "\n".join(lines)


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _mean(rows: Sequence[Row]) -> Row:
    names = ("mae", "median", "rmse", "within_0p02", "position_mae", "position_null")
    values = {name: float(np.mean([getattr(row, name) for row in rows])) for name in names}
    return Row(target=rows[0].target, split="mean", n=sum(row.n for row in rows), **values)


def _harder(rows: Sequence[Row]) -> str:
    chosen = [row for row in rows if not row.split.startswith("fold")]
    return (
        "\n".join([HEAD, LINE, *(line(row) for row in chosen)]) if chosen else "Not measured yet."
    )


def _group_cells(found: dict[str, float]) -> str:
    within = f"{100 * found['within_0p02']:.0f} ± {100 * found['within_error']:.0f} %"
    return f"{found['mae']:.3f} ± {found['mae_error']:.3f} | {within}"


def large_text(found: dict[str, float] | None) -> str:
    """A sentence on the errors for the large molecules."""
    if found is None:
        return "Not measured yet."
    return (
        f"On {found['n']:.0f} large molecules (19 to 52 atoms) on surfaces the mean of the networks has an error of {found['mae']:.2f} eV. "
        f"The baseline, one energy for all molecules on a slab, has {found['null']:.2f} eV; the mean energy of each slab is subtracted first."
    )


def _groups(groups: dict[str, dict[str, dict[str, float]]]) -> str:
    tables = []
    for key in ("group", "metal"):
        measured = {
            target: groups[f"{target} by {key}"]
            for target in TARGETS
            if groups[f"{target} by {key}"]
        }
        if not measured:
            continue
        lines = [
            f"| {'family' if key == 'group' else key} | structures | "
            + " | ".join(f"{TARGETS[t]}, MAE (eV) | within 0.02 eV" for t in measured)
            + " |"
        ]
        lines.append("|---|---|" + "---|---|" * len(measured))
        for name, found in next(iter(measured.values())).items():
            cells = " | ".join(_group_cells(m[name]) for m in measured.values())
            lines.append(f"| {name} | {found['n']:.0f} | {cells} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables) or "Not measured yet."
