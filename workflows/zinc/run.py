"""Cross-validate a small and a large graph convolutional network on 2,000 molecules of ZINC.

Usage:
    GEOCALC_DATA=... python workflows/zinc/run.py train|report [--recipes small,big]
        [--folds 0,1,2,3,4] [--steps N]

`train` fits each recipe of this folder once for each held-out fold, in runs/zinc, and resumes where
it was stopped; `report` measures finished runs on their held-out folds and writes results.json, the
table of README.md and the plots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import figures
import page
from lightning_fabric import Fabric
from measure import Fit, measure

from geocalc.core import configure_process
from geocalc.properties import PropertyRecipe, read_property_recipe, train_property
from geocalc.train import CHECKPOINT, METRICS, TrainingProgress, steps_done

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "zinc"
RECIPES, FOLDS = "small,big", "0,1,2,3,4"


@dataclass(frozen=True)
class Planned:
    """A training: name of the recipe's file, fold that is held out, the recipe with that fold,
    folder of the run.
    """

    name: str
    fold: int
    recipe: PropertyRecipe
    folder: Path


def plan(recipes: str, folds: str, steps: int | None, out: Path) -> Iterator[Planned]:
    """Every training that is asked for; shortened ones have folders of their own."""
    for name in recipes.split(","):
        for fold in map(int, folds.split(",")):
            changes = [f"data.fold={fold}"] + ([] if steps is None else [f"training.steps={steps}"])
            recipe = read_property_recipe(HERE / f"{name}.yaml", tuple(changes))
            yield Planned(
                name, fold, recipe, out / f"{name}-{recipe.training.steps}" / f"fold-{fold}"
            )


@click.group()
def main() -> None:
    """Graph convolutional networks of molecules, by cross-validation."""
    configure_process()


recipes_option = click.option("--recipes", default=RECIPES, show_default=True)
folds_option = click.option(
    "--folds", default=FOLDS, show_default=True, help="Which are held out, one after the other."
)
steps_option = click.option("--steps", type=int, default=None, help="Instead of the recipe's.")
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=RUNS,
    help="Where the runs are [default: runs/zinc].",
)


@main.command("train")
@recipes_option
@folds_option
@steps_option
@out_option
def train_command(recipes: str, folds: str, steps: int | None, out: Path) -> None:
    """Fit what is not fitted yet."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    for one in plan(recipes, folds, steps, out):

        def say(now: TrainingProgress, where: str = f"{one.name} fold {one.fold}") -> None:
            print(f"{where} {now} {now.seconds:.0f} s", flush=True)

        train_property(one.recipe, one.folder, out / "data", fabric, say)


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
def report_command(recipes: str, folds: str, steps: int | None, out: Path, to: Path) -> None:
    """Numbers, table and pictures of all runs that were asked for, every one of which must be
    finished.
    """
    fits: list[Fit] = []
    for one in plan(recipes, folds, steps, out):
        if (
            steps_done(one.folder / CHECKPOINT) < one.recipe.training.steps
            or not (one.folder / METRICS).is_file()
        ):
            raise SystemExit(f"{one.folder} is not finished; run train with the same options first")
        fits.append(measure(one.name, one.recipe, one.folder))
    page.write(fits, to)
    figures.draw_curves(fits, to / "learning-curve.png")
    figures.draw_parity(fits, to / "parity.png")


if __name__ == "__main__":
    main()
