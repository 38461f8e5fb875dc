"""Repeat an empirical study of canonicalization, graphs, Ewald message passing, Noisy Nodes, and
direct or iterative prediction.

Usage:
    GEOCALC_DATA=... python workflows/empirical-study/run.py [--full] train|measure|report|smoke
        [--tables canonicalization,graphs] [--rows sfa] [--seeds 0,1,2]

`train` fits every row of tables.yaml with every seed, in runs/empirical-study, and resumes where it
was stopped; `measure` computes errors of trained rows that are not measured yet; `report` writes
results.csv, the tables of README.md and the plots; `smoke` runs every row for two steps on a few
EMT slabs. With `--full` rows have the sizes of tables.yaml for a GPU, and the report is written to
runs/empirical-study-full.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import click
from figures import draw
from lightning_fabric import Fabric
from measure import measure
from page import PAGE, write_page
from pairs import write_pairs
from results import collect, read_results, write_results
from rows import HERE, PAIRS, Row, Tables, read_tables, recipe_of
from smoke import changes, write_data

from geocalc.core import configure_process, write_atomically
from geocalc.train import METRICS, TrainingProgress, read_recipe, train

RUNS = HERE.parents[1] / "runs"
CSV = "results.csv"


@dataclass(frozen=True)
class Study:
    """The study at one scale: its rows, the folder of its runs, the folder of its report, and what
    it computes on.
    """

    tables: Tables
    runs: Path
    report: Path
    accelerator: str

    def folder(self, row: Row, seed: int) -> Path:
        """Of the run of a row with a seed."""
        table, name = row.run
        return self.runs / table / f"{name}-{seed}"

    @property
    def data(self) -> Path:
        """Where prepared data are kept."""
        return self.runs / "data"

    @property
    def pairs(self) -> Path:
        """The folder of the pairs that pairs.py writes."""
        return self.runs / "pairs"

    def each(
        self, tables: str | None, names: str | None, seeds: str | None
    ) -> list[tuple[Row, int]]:
        """Chosen rows, seed after seed, so that a study that is cut short has all rows."""
        chosen = [int(seed) for seed in seeds.split(",")] if seeds else self.tables.seeds
        return [(row, seed) for seed in chosen for row in self.tables.chosen(tables, names)]


@click.group()
@click.option("--full", is_flag=True, help="The sizes for a GPU.")
@click.pass_context
def main(context: click.Context, full: bool) -> None:
    """The empirical study."""
    configure_process()
    runs = RUNS / ("empirical-study-full" if full else "empirical-study")
    context.obj = Study(
        read_tables(full=full), runs, runs if full else HERE, "auto" if full else "cpu"
    )


SOME_TABLES = click.option(
    "--tables", default=None, help="Some tables, with commas between them; by default all."
)
SOME_ROWS = click.option("--rows", "names", default=None, help="Some rows; by default all.")
SOME_SEEDS = click.option(
    "--seeds", default=None, help="Some seeds; by default those of tables.yaml."
)


@main.command("train")
@SOME_TABLES
@SOME_ROWS
@SOME_SEEDS
@click.pass_obj
def train_command(study: Study, tables: str | None, names: str | None, seeds: str | None) -> None:
    """Fit what is not fitted yet."""
    fabric = Fabric(accelerator=study.accelerator, devices=1, precision="32-true")
    for row, seed in study.each(tables, names, seeds):
        fit(study, row, seed, fabric)


@main.command("measure")
@SOME_TABLES
@SOME_ROWS
@SOME_SEEDS
@click.pass_obj
def measure_command(study: Study, tables: str | None, names: str | None, seeds: str | None) -> None:
    """Errors of every finished run, into a file beside it, unless they are there."""
    for row, seed in study.each(tables, names, seeds):
        folder = study.folder(row, seed)
        if (folder / METRICS).exists() and not (folder / row.measured).exists():
            found = measure(row, recipe_of(row, seed, study.pairs), folder, study.data)
            write_atomically(folder / row.measured, [json.dumps(found, indent=1) + "\n"])
            print(f"{row.table} {folder.name} {found['energy_mae']:.3f} eV", flush=True)


@main.command("report")
@click.pass_obj
def report_command(study: Study) -> None:
    """results.csv, the tables and the pictures, of all that is measured; what is not measured anew
    stays as it was.
    """
    if study.report != HERE:
        shutil.copy(HERE / PAGE, study.report / PAGE)
    results = collect(study.runs, read_results(study.report / CSV), study.tables)
    write_results(results, study.report / CSV)
    write_page(study.tables, results, study.report / PAGE)
    draw(study.tables, results, study.report)


@main.command("smoke")
@SOME_TABLES
@SOME_ROWS
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=RUNS / "empirical-study-smoke",
    help="Folder of the runs.",
)
@click.pass_obj
def smoke_command(study: Study, tables: str | None, names: str | None, out: Path) -> None:
    """Two steps of every row on EMT slabs, and their measurement."""
    write_data(out / "pairs")
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    for row in study.tables.chosen(tables, names):
        folder, recipe = (
            out / f"{row.table}-{row.name}",
            recipe_of(row, 0, out / "pairs", changes(row, out / "pairs")),
        )
        train(recipe, folder, out / "data", fabric)
        found = measure(row, recipe, folder, out / "data", limit=2)
        print(
            f"{row.table} {row.name}: {len(found)} numbers, {found['energy_mae']:.3f} eV",
            flush=True,
        )


def fit(study: Study, row: Row, seed: int, fabric: Fabric) -> None:
    """Train one row with one seed."""
    folder = study.folder(row, seed)

    def say(progress: TrainingProgress) -> None:
        print(
            f"{row.table} {folder.name} {progress} {progress.seconds:.0f} s",
            flush=True,
        )

    if row.recipe == PAIRS:
        write_pairs(read_recipe(HERE / "potential.yaml"), study.pairs)
    train(recipe_of(row, seed, study.pairs), folder, study.data, fabric, say)


if __name__ == "__main__":
    main()
