"""The empirical study: canonicalization, graphs, Ewald, Noisy Nodes, and iterative against direct prediction, row by row.

Usage: GEOCALC_DATA=... python workflows/empirical-study/run.py train|measure|report [--tables canonicalization,graphs] [--rows sfa] [--seeds 0,1,2]
`train` fits every row of tables.yaml with every seed, in runs/empirical-study, and goes on where it was stopped; `measure` takes
the errors of what is fitted and not measured yet; `report` writes results.csv, the tables of README.md and the pictures; `smoke` runs
every row for two steps on a few EMT slabs.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from figures import draw
from lightning_fabric import Fabric
from measure import measure
from page import write_page
from pairs import write_pairs
from results import MEASURED, collect, read_results, write_results
from rows import HERE, PAIRS, Row, read_tables, recipe_of
from smoke import changes, write_data

from geocalc.process import settle_process
from geocalc.run_folder import write_whole
from geocalc.train.loop import Progress, train
from geocalc.train.recipe import read_recipe
from geocalc.train.run_files import METRICS

RUNS = HERE.parents[1] / "runs" / "empirical-study"
DATA, PAIR_FILES = RUNS / "data", RUNS / "pairs"
FABRIC = Fabric(accelerator="cpu", devices=1, precision="32-true")


@click.group()
def main() -> None:
    """The empirical study."""
    settle_process()


SOME_TABLES = click.option("--tables", default=None, help="Some tables, with commas between them; by default all.")
SOME_ROWS = click.option("--rows", "names", default=None, help="Some rows; by default all.")
SOME_SEEDS = click.option("--seeds", default=None, help="Some seeds; by default those of tables.yaml.")


@main.command("train")
@SOME_TABLES
@SOME_ROWS
@SOME_SEEDS
def train_command(tables: str | None, names: str | None, seeds: str | None) -> None:
    """Fit what is not fitted yet."""
    for row, seed in _each(tables, names, seeds):
        fit(row, seed)


@main.command("measure")
@SOME_TABLES
@SOME_ROWS
@SOME_SEEDS
def measure_command(tables: str | None, names: str | None, seeds: str | None) -> None:
    """Errors of every finished run, into measured.json beside it, unless they are there."""
    for row, seed in _each(tables, names, seeds):
        folder = folder_of(row, seed)
        if (folder / METRICS).exists() and not (folder / MEASURED).exists():
            found = measure(row, recipe_of(row, seed, PAIR_FILES), folder, DATA)
            write_whole(folder / MEASURED, [json.dumps(found, indent=1) + "\n"])
            print(f"{row.table} {folder.name} {found['energy_mae']:.3f} eV", flush=True)


@main.command("report")
def report_command() -> None:
    """results.csv, the tables and the pictures, of all that is measured; what is not measured anew stays as it was."""
    tables = read_tables()
    results = collect(RUNS, read_results(HERE / "results.csv"), tables)
    write_results(results, HERE / "results.csv")
    write_page(tables, results)
    draw(tables, results, HERE)


def _each(tables: str | None, names: str | None, seeds: str | None) -> list[tuple[Row, int]]:
    """Chosen rows, seed after seed, so that a study that is cut short has all rows."""
    study = read_tables()
    chosen = [int(seed) for seed in seeds.split(",")] if seeds else study.seeds
    return [(row, seed) for seed in chosen for row in study.chosen(tables, names)]


def folder_of(row: Row, seed: int) -> Path:
    """Of the run of a row with a seed."""
    table, name = row.run
    return RUNS / table / f"{name}-{seed}"


@main.command("smoke")
@SOME_TABLES
@SOME_ROWS
@click.option("--out", type=click.Path(path_type=Path), default=RUNS / "smoke", show_default=False, help="Folder of the runs.")
def smoke_command(tables: str | None, names: str | None, out: Path) -> None:
    """Two steps of every row on EMT slabs, and their measurement."""
    write_data(out / "pairs")
    for row in read_tables().chosen(tables, names):
        folder, recipe = out / f"{row.table}-{row.name}", recipe_of(row, 0, out / "pairs", changes(row, out / "pairs"))
        train(recipe, folder, out / "data", FABRIC)
        found = measure(row, recipe, folder, out / "data", limit=2)
        print(f"{row.table} {row.name}: {len(found)} numbers, {found['energy_mae']:.3f} eV", flush=True)


def fit(row: Row, seed: int) -> None:
    """Train one row with one seed."""
    folder = folder_of(row, seed)

    def say(progress: Progress) -> None:
        print(
            f"{row.table} {folder.name} {progress.step}/{progress.steps} {progress.energy:.3f} eV {progress.seconds:.0f} s",
            flush=True,
        )

    if row.recipe == PAIRS:
        write_pairs(read_recipe(HERE / "potential.yaml"), PAIR_FILES)
    train(recipe_of(row, seed, PAIR_FILES), folder, DATA, FABRIC, say)


if __name__ == "__main__":
    main()
