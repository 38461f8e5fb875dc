"""Glassy dynamics: networks and baselines that predict from the structure of a glass how far its particles will move.

Usage: GEOCALC_DATA=... python workflows/glassy-dynamics/run.py train|baselines|test|report [--recipes a,b] [--folds 0,1] [--steps N]
`train` fits recipes of this folder, in runs/glassy-dynamics, and goes on where it was stopped; `baselines` fits what needs no network on
the same folds; `test` judges all of them by configurations 401 and 402, once; `report` writes results.json, the tables of README.md and
the pictures.
"""

from __future__ import annotations

from pathlib import Path

import click
from baselines import BASELINES, tables
from lightning_fabric import Fabric
from measure import baseline_row
from plan import HERE, LEARNABLE, RUNS, plan
from scores import Rows

from geocalc.process import settle_process
from geocalc.properties.lesson import train_property
from geocalc.properties.recipe import GlassData, read_property_recipe
from geocalc.run_folder import write_whole
from geocalc.train.loop import Progress

RECIPES = "moments,bapst,unshared,edges-parallel,report,gcn"


def glass_data() -> GlassData:
    """Where the configurations at T = 0.44 are, and which are for the test."""
    return read_property_recipe(HERE / "bapst.yaml").data


@click.group()
def main() -> None:
    """Propensities of a glass from its structure."""
    settle_process()


recipes_option = click.option("--recipes", default=RECIPES, show_default=True)
folds_option = click.option(
    "--folds",
    default=None,
    help="Pairs of the ten configurations that are held out, one after the other, by commas "
    "[default: all five of the network of moments, the last of the others].",
)
steps_option = click.option("--steps", type=int, default=None, help="Instead of the recipe's.")
out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=RUNS, help="Where the runs are [default: runs/glassy-dynamics]."
)


@main.command("train")
@recipes_option
@folds_option
@steps_option
@out_option
def train_command(recipes: str, folds: str | None, steps: int | None, out: Path) -> None:
    """Fit what is not fitted yet."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    for one in plan(recipes, folds, steps, out):

        def say(now: Progress, where: str = str(one)) -> None:
            print(f"{where} {now} {now.seconds:.0f} s", flush=True)

        train_property(one.recipe, one.folder, out / "data", fabric, say)


@main.command("baselines")
@out_option
def baselines_command(out: Path) -> None:
    """Fit local energies and descriptors on the five folds."""
    data, rows = glass_data(), []
    for baseline in BASELINES:
        rows.append(baseline_row(baseline, tables(baseline, data, LEARNABLE, out / "data")))
        (score,) = rows[-1].validation
        print(f"{baseline.name}: Pearson {score.pooled:.3f} pooled, {score.mean:.3f} within configurations", flush=True)
    write_whole(out / "baselines.json", [Rows(rows=tuple(rows)).model_dump_json(indent=1)])


if __name__ == "__main__":
    main()
