"""The empirical study: canonicalization, graphs, Ewald, Noisy Nodes, and iterative against direct prediction, row by row.

Usage: GEOCALC_DATA=... python workflows/empirical-study/run.py train [--tables canonicalization,graphs] [--rows sfa] [--seeds 0,1,2]
`train` fits every row of tables.yaml with every seed, in runs/empirical-study, and goes on where it was stopped.
"""

from __future__ import annotations

import click
from lightning_fabric import Fabric
from pairs import write_pairs
from rows import HERE, PAIRS, Row, read_tables, recipe_of

from geocalc.process import settle_process
from geocalc.train.loop import Progress, train
from geocalc.train.recipe import read_recipe

RUNS = HERE.parents[1] / "runs" / "empirical-study"
DATA, PAIR_FILES = RUNS / "data", RUNS / "pairs"


@click.group()
def main() -> None:
    """The empirical study."""
    settle_process()


@main.command("train")
@click.option("--tables", default=None, help="Some tables, with commas between them.")
@click.option("--rows", "names", default=None, help="Some rows.")
@click.option("--seeds", default=None, help="Some seeds; by default those of tables.yaml.")
def train_command(tables: str | None, names: str | None, seeds: str | None) -> None:
    """Fit what is not fitted yet."""
    study = read_tables()
    for seed in [int(s) for s in seeds.split(",")] if seeds else study.seeds:
        for row in study.chosen(tables, names):
            fit(row, seed)


def fit(row: Row, seed: int) -> None:
    """Train one row with one seed."""
    folder = RUNS / row.table / f"{row.name}-{seed}"

    def say(progress: Progress) -> None:
        print(
            f"{row.table} {folder.name} {progress.step}/{progress.steps} {progress.energy:.3f} eV {progress.seconds:.0f} s",
            flush=True,
        )

    if row.recipe == PAIRS:
        write_pairs(read_recipe(HERE / "potential.yaml"), PAIR_FILES)
    train(recipe_of(row, seed, PAIR_FILES), folder, DATA, Fabric(accelerator="cpu", devices=1, precision="32-true"), say)


if __name__ == "__main__":
    main()
