"""Train and test networks and baselines that predict propensities from the structure of a glass.

Usage:
    GEOCALC_DATA=... python workflows/glassy-dynamics/run.py train|baselines|test|report|ship
        [--recipes a,b] [--folds 0,1] [--steps N]

`train` fits recipes of this folder, in runs/glassy-dynamics, and resumes where it was stopped;
`baselines` fits the baselines on the same folds; `test` evaluates each of them on configurations
401 and 402, once; `report` writes results.json, the tables of README.md and the plots; `ship` makes
the model `glass-gn` from the networks of `moments` of all folds.
"""

from __future__ import annotations

from pathlib import Path

import click
from baselines import BASELINES, tables
from lightning_fabric import Fabric
from measure import baseline_row
from plan import HERE, LEARNABLE, RUNS, plan
from report import BASELINES_FILE, glass_data, judge, read_fits, write_report
from scores import Baselines

from geocalc.core import configure_process, write_atomically
from geocalc.properties import register_property, train_property
from geocalc.train import TrainingProgress

FEWER = (2, 4, 6)  # configurations that the last baseline learns from besides
MODELS, SHIPPED = HERE.parents[1] / "models", "glass-gn"
RECIPES = "moments,bapst,unshared,edges-parallel,report,gcn"


@click.group()
def main() -> None:
    """Propensities of a glass from its structure."""
    configure_process()


recipes_option = click.option("--recipes", default=RECIPES, show_default=True)
folds_option = click.option(
    "--folds",
    default=None,
    help="Pairs of the ten configurations that are held out, one after the other, by commas "
    "[default: all five of the network of moments, the last of the others].",
)
steps_option = click.option("--steps", type=int, default=None, help="Instead of the recipe's.")
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=RUNS,
    help="Where the runs are [default: runs/glassy-dynamics].",
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

        def say(now: TrainingProgress, where: str = str(one)) -> None:
            print(f"{where} {now} {now.seconds:.0f} s", flush=True)

        train_property(one.recipe, one.folder, out / "data", fabric, say)


@main.command("baselines")
@out_option
def baselines_command(out: Path) -> None:
    """Fit local energies and descriptors on the five folds."""
    data, rows, fewer = glass_data(), [], []
    for baseline in BASELINES:
        some = tables(baseline, data, LEARNABLE, out / "data")
        rows.append(baseline_row(baseline, some))
        (score,) = rows[-1].validation
        print(
            f"{baseline.name}: Pearson {score.pooled:.3f} pooled, {score.mean:.3f} within configurations",
            flush=True,
        )
        if baseline is BASELINES[-1]:
            fewer = [*(baseline_row(baseline, some, learned) for learned in FEWER), rows[-1]]
    write_atomically(
        out / BASELINES_FILE,
        [Baselines(rows=tuple(rows), fewer=tuple(fewer)).model_dump_json(indent=1)],
    )


@main.command("test")
@recipes_option
@folds_option
@steps_option
@out_option
def test_command(recipes: str, folds: str | None, steps: int | None, out: Path) -> None:
    """Judge networks and baselines by the test configurations, each of them once."""
    for name in judge(read_fits(plan(recipes, folds, steps, out), out), out):
        print(f"{name} was judged before; its test stays as it is")


@main.command("report")
@recipes_option
@folds_option
@steps_option
@out_option
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=HERE,
    help="Where README.md is [default: beside this file].",
)
def report_command(recipes: str, folds: str | None, steps: int | None, out: Path, to: Path) -> None:
    """Numbers, tables and pictures of all that was asked for, every training of which must be
    finished.
    """
    write_report(read_fits(plan(recipes, folds, steps, out), out), out, to)


@main.command("ship")
@out_option
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=MODELS,
    help="Where models are kept [default: models].",
)
def ship_command(out: Path, to: Path) -> None:
    """Make the networks of moments of all folds the model `glass-gn`, which gives their mean."""
    print(
        register_property(
            [one.folder for one in plan("moments", None, None, out)], SHIPPED, to, out / "data"
        )
    )


if __name__ == "__main__":
    main()
