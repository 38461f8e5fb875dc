"""Model calls of relaxations with and without a warm start.

Usage: GEOCALC_DATA=... python workflows/warm-start/run.py train|measure|page `train` fits a direct
model to the relaxations that faenet-sfa has learned from (ten minutes of one core); `measure`
relaxes with and without it, and 100 molecules with and without the network of
workflows/direct-is2re that has not seen fold 4, whose run runs/direct-is2re/e_ads-fold4 has to be
finished; `page` writes results.json and the tables of README.md.
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
from ase.constraints import FixAtoms
from ase.io import read, write
from lightning_fabric import Fabric

from geocalc import relax
from geocalc.api import Result
from geocalc.core.process import configure_process
from geocalc.core.settings import read_yaml
from geocalc.data.prepare import reference_relaxations
from geocalc.evaluation.metrics import distances
from geocalc.train.recipe import Recipe, parse_recipe, read_recipe
from geocalc.train.register import register
from geocalc.train.task import train

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNS = ROOT / "runs" / "warm-start"
DIRECT = ROOT / "runs" / "direct-is2re" / "e_ads-fold4"
DATA, FOLD, N_MOLECULES = "gamenet-fg-adsorption/fg_adslab_init.extxyz.gz", 4, 100
POTENTIAL, DIRECT_RECIPE = (
    ROOT / "models" / "faenet-sfa",
    ROOT / "models" / "faenet-is2re" / "recipe.yaml",
)
OWN = "direct-own"
# eV and Angstrom (mean over free atoms) up to which two relaxations have ended in one place
SAME = 0.02
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


def molecules(n: int) -> list[Atoms]:
    """Unrelaxed structures of the fold, a random choice."""
    with gzip.open(Path(os.environ["GEOCALC_DATA"]) / DATA, "rt") as handle:
        every = [
            a
            for a in read(io.StringIO(handle.read()), ":", format="extxyz")
            if int(a.info["cv_fold"]) == FOLD
        ]
    return [every[k] for k in np.random.default_rng(0).choice(len(every), n, replace=False)]


def pairs() -> tuple[Path, Path]:
    """Files of first and last frames of every relaxation of the first source of faenet-sfa; `part`
    says which it has not seen.
    """
    recipe, ends = (
        read_recipe(POTENTIAL / "recipe.yaml"),
        (RUNS / "first.extxyz", RUNS / "last.extxyz"),
    )
    found: tuple[list[Atoms], list[Atoms]] = ([], [])
    for part in ("learned", "held-out"):
        for reference in reference_relaxations(recipe.data, 0, validation=part == "held-out"):
            for atoms, one in zip(found, (reference.first, reference.last), strict=True):
                atoms.append(
                    Atoms(one.numbers, one.positions, cell=one.cell, pbc=one.pbc, tags=one.tags)
                )
                atoms[-1].set_constraint(FixAtoms(np.flatnonzero(one.fixed.all(1))))
                atoms[-1].info = {
                    "REF_energy": reference.last.energy,
                    "sid": one.group,
                    "part": part,
                }
    RUNS.mkdir(parents=True, exist_ok=True)
    for path, atoms in zip(ends, found, strict=True):
        write(path, atoms)
    return ends


def own_recipe(steps: int) -> Recipe:
    """The recipe of faenet-is2re on those pairs."""
    first, last = pairs()
    values, potential = read_yaml(DIRECT_RECIPE), read_yaml(POTENTIAL / "recipe.yaml")
    values["name"] = OWN
    values["about"] = {
        key: potential["about"][key]
        for key in ("energy_kind", "level_of_theory", "references", "domain", "data")
    }
    values["data"] = {
        "sources": [{"path": str(first), "relaxed": str(last)}],
        "validation_key": "part",
        "validation_values": ["held-out"],
    }
    values["training"] |= {"steps": steps, "evaluate_every": steps}
    return parse_recipe(values, OWN)


def direct_model(run: Path, name: str) -> Path:
    """A finished run as a model."""
    folder = RUNS / "models" / name
    return folder if folder.exists() else register(run, name, folder.parent, run.parent / "data")


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
    saved = np.array(
        [p.record.n_evaluations - w.record.n_evaluations for p, w in zip(plain, warm, strict=True)]
    )
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
    return float(
        distances(one.positions, other.positions, np.array(one.cell), one.pbc)[free].mean()
    )


def table(results: dict[str, dict[str, float]]) -> str:
    """The table of one set of structures."""
    lines = [
        "| start | structures | model calls, mean | median | converged | mean energy (eV) |",
        "|---|---|---|---|---|---|",
    ]
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
    return "\n".join(lines)


def measured(structures: Sequence[Atoms], start: Path) -> dict[str, dict[str, float]]:
    """Relax with and without, and compare."""
    plain = relax(structures, POTENTIAL.name, frames="single")
    warm = relax(structures, POTENTIAL.name, frames="single", warm_start=str(start))
    return {
        "plain": vars(summary("plain", plain)),
        "warm": vars(summary("warm", warm)),
        "compared": compared(plain, warm),
    }


@click.group()
def main() -> None:
    """Warm starts."""
    configure_process()


@main.command("train")
@click.option("--steps", default=16_000, show_default=True)
def train_command(steps: int) -> None:
    """A direct model of the potential's own data."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    train(own_recipe(steps), RUNS / OWN, RUNS / "data", fabric)


@main.command("measure")
@click.argument("sets", nargs=-1, type=click.Choice(["own", "molecules"]))
def measure_command(sets: tuple[str, ...]) -> None:
    """Relax with and without."""
    for name in sets or ("own", "molecules"):
        if name == "own":
            start = direct_model(RUNS / OWN, OWN)
            chosen = [
                atoms
                for atoms in read(RUNS / "first.extxyz", ":")
                if atoms.info["part"] == "held-out"
            ]
        else:
            start, chosen = direct_model(DIRECT, "direct-fold4"), molecules(N_MOLECULES)
        (RUNS / f"{name}.json").write_text(json.dumps(measured(chosen, start)))
        print(table(json.loads((RUNS / f"{name}.json").read_text())), flush=True)


@main.command("page")
def page_command() -> None:
    """The tables of what there is."""
    results = {
        name: json.loads((RUNS / f"{name}.json").read_text()) for name in ("own", "molecules")
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = (HERE / "README.md").read_text()
    for name, one in results.items():
        head, rest = text.split(f"<!-- {name} -->\n")
        text = f"{head}<!-- {name} -->\n{table(one)}\n<!-- /{name} -->{rest.split(f'<!-- /{name} -->')[1]}"
    (HERE / "README.md").write_text(text)


if __name__ == "__main__":
    main()
