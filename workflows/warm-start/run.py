"""Count model calls of relaxations with and without a warm start.

Usage:
    GEOCALC_DATA=... python workflows/warm-start/run.py train|measure|page

`train` fits a direct model to the training relaxations of faenet-sfa (ten minutes of one core);
`measure` relaxes with and without it, and 100 molecules with and without the network of
workflows/direct-is2re that has not seen fold 4 (its run runs/direct-is2re/e_ads-fold4 has to be
finished); `page` writes results.json and the tables of README.md.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import read, write
from compare import compared, summary
from lightning_fabric import Fabric
from page import table

from geocalc import relax
from geocalc.core import configure_process, read_yaml
from geocalc.data import reference_relaxations
from geocalc.train import Recipe, parse_recipe, read_recipe, register_model, train

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
        for key in ("energy_kind", "level_of_theory", "reference_text", "domain", "data")
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
    return (
        folder if folder.exists() else register_model(run, name, folder.parent, run.parent / "data")
    )


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
