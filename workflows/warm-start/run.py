"""Model calls of relaxations with and without a warm start.

Usage: GEOCALC_DATA=... python workflows/warm-start/run.py [--n 100]
It needs the finished run runs/direct-is2re/e_ads-fold4 of workflows/direct-is2re, and writes results.json and the table of README.md.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.io import read

from geocalc import relax
from geocalc.api import Result
from geocalc.metrics import distances
from geocalc.process import settle_process
from geocalc.train.register import register

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNS = ROOT / "runs" / "warm-start"
DIRECT = ROOT / "runs" / "direct-is2re" / "e_ads-fold4"
DATA, FOLD, MARKER = "gamenet-fg-adsorption/fg_adslab_init.extxyz.gz", 4, "table"
SAME = 0.02  # eV and Angstrom (mean over free atoms) up to which two relaxations have ended in one place
NAMES = {"plain": "as they are", "warm": "warm start"}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Of the relaxations from one kind of start."""

    name: str
    n: int
    calls_mean: float
    calls_median: float
    converged: float
    energy_mean: float


def structures(n: int) -> list[Atoms]:
    """Unrelaxed structures of the fold, a random choice."""
    with gzip.open(Path(os.environ["GEOCALC_DATA"]) / DATA, "rt") as handle:
        every = [a for a in read(io.StringIO(handle.read()), ":", format="extxyz") if int(a.info["cv_fold"]) == FOLD]
    return [every[k] for k in np.random.default_rng(0).choice(len(every), n, replace=False)]


def direct_model() -> Path:
    """The network that has not seen the fold, as a model."""
    folder = RUNS / "models" / "direct-fold4"
    return folder if folder.exists() else register(DIRECT, folder.name, folder.parent, DIRECT.parent / "data")


def summary(name: str, results: Sequence[Result]) -> Summary:
    """Means over all; a relaxation that did not converge counts with the calls it made."""
    calls = np.array([r.record.n_evaluations for r in results])
    return Summary(
        name=name,
        n=len(results),
        calls_mean=float(calls.mean()),
        calls_median=float(np.median(calls)),
        converged=float(np.mean([bool(r.record.converged) for r in results])),
        energy_mean=float(np.mean([r.record.energy for r in results])),
    )


def compared(plain: Sequence[Result], warm: Sequence[Result]) -> dict[str, float]:
    """Pair by pair: calls saved, and where the two end."""
    saved = np.array([p.record.n_evaluations - w.record.n_evaluations for p, w in zip(plain, warm, strict=True)])
    lower = np.array([w.record.energy - p.record.energy for p, w in zip(plain, warm, strict=True)])  # type: ignore[operator]
    apart = np.array([_apart(p.atoms, w.atoms) for p, w in zip(plain, warm, strict=True)])
    error = float(saved.std(ddof=1) / np.sqrt(len(saved)))
    return {
        "saved_mean": float(saved.mean()),
        "saved_error": error,
        "fewer": float((saved > 0).mean()),
        "same_place": float(((np.abs(lower) < SAME) & (apart < SAME)).mean()),
        "lower": float((lower < -SAME).mean()),
        "higher": float((lower > SAME).mean()),
    }


def _apart(one: Atoms, other: Atoms) -> float:
    """Mean distance of free atoms, Angstrom."""
    free = np.linalg.norm(one.get_forces(apply_constraint=True), axis=1) > 0
    return float(distances(one.positions, other.positions, np.array(one.cell), one.pbc)[free].mean())


def page(results: dict[str, dict[str, float]]) -> None:
    """Renew the table of README.md."""
    lines = ["| start | structures | model calls, mean | median | converged | mean energy (eV) |", "|---|---|---|---|---|---|"]
    for name, words in NAMES.items():
        one = results[name]
        lines.append(
            f"| {words} | {one['n']} | {one['calls_mean']:.1f} | {one['calls_median']:.0f} | {100 * one['converged']:.0f} % "
            f"| {one['energy_mean']:.3f} |"
        )
    c = results["compared"]
    lines += [
        "",
        f"Pair by pair a warm start saves {c['saved_mean']:.1f} ± {c['saved_error']:.1f} calls (mean and its standard error; its own call "
        f"is counted), and saves any in {100 * c['fewer']:.0f} % of the structures. Both end in the same place (within {SAME} eV and "
        f"{SAME} Å) in {100 * c['same_place']:.0f} %; with the warm start {100 * c['lower']:.0f} % end lower and "
        f"{100 * c['higher']:.0f} % higher by more than {SAME} eV.",
    ]
    readme = HERE / "README.md"
    head, rest = readme.read_text().split(f"<!-- {MARKER} -->")
    _, tail = rest.split(f"<!-- /{MARKER} -->")
    readme.write_text(f"{head}<!-- {MARKER} -->\n" + "\n".join(lines) + f"\n<!-- /{MARKER} -->{tail}")


@click.command()
@click.option("--n", default=100, show_default=True, help="Structures.")
def main(n: int) -> None:
    """Relax with and without, and compare."""
    settle_process()
    chosen, start = structures(n), direct_model()
    plain = relax(chosen, "faenet-sfa", frames="cell")
    warm = relax(chosen, "faenet-sfa", frames="cell", warm_start=str(start))
    results = {
        "plain": vars(summary("plain", plain)),
        "warm": vars(summary("warm", warm)),
        "compared": compared(plain, warm),
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    page(results)


if __name__ == "__main__":
    main()
