"""Cross-validate direct prediction of relaxed energies on GAME-Net FG.

Usage:
    GEOCALC_DATA=... python workflows/direct-is2re/run.py train|predict|large|page|ship
        [--splits fold1,fold2] [--targets e_ads,total]

`train` fits one network for each split and target with the recipe of faenet-is2re, in
runs/direct-is2re, and resumes where it was stopped; `predict` applies each network to its held-out
set, `large` those of the folds to large molecules; `page` writes results.json and the tables of
README.md; `ship` makes the model folder from the networks of the folds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import card
import click
import large
import page
import splits
from lightning_fabric import Fabric

from geocalc.core import configure_process, read_yaml
from geocalc.data import Samples, prepare_store, read_store
from geocalc.evaluation import pair_predictions
from geocalc.frames import frame_policy
from geocalc.potentials import NetworkPotential
from geocalc.train import (
    CHECKPOINT,
    Recipe,
    TrainingProgress,
    load_checkpoint,
    start_training,
    steps_done,
    train,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNS = ROOT / "runs" / "direct-is2re"
RECIPE = ROOT / "models" / "faenet-is2re" / "recipe.yaml"
FRAMES, FOLDS = "averaged", "fold1,fold2,fold3,fold4"


def recipe_for(split: splits.Split, target: str, steps: int | None) -> Recipe:
    """The recipe of the shipped model with another split, and perhaps another target.

    Nothing is chosen by what is held out: the steps are fixed and the last weights are taken, so it
    is a test set.
    """
    values: dict[str, Any] = read_yaml(RECIPE)
    values["data"] |= {"validation_key": split.key, "validation_values": list(split.values)}
    if target == "total":
        values["about"] |= {"energy_kind": "total", "reference_text": "none"}
        # absent: the energy stored with the relaxed structure
        values["data"]["sources"][0]["energy_key"] = "REF_energy"
        values["fitted_references"] = {"elements": []}
    if steps is not None:
        values["training"]["steps"] = steps
    values["training"]["evaluate_every"] = values["training"]["steps"]
    return Recipe.parse(values, f"{RECIPE.name} for {split.name}, {target}")


@click.group()
def main() -> None:
    """Cross-validation of direct IS2RE."""
    configure_process()


def _each(names: str, targets: str) -> list[tuple[splits.Split, str]]:
    return [
        (splits.find(name), target) for name in names.split(",") for target in targets.split(",")
    ]


@main.command("train")
@click.option("--splits", "names", default=FOLDS, show_default=True)
@click.option("--targets", default="e_ads,total", show_default=True)
@click.option("--steps", type=int, default=None, help="Instead of the recipe's.")
def train_command(names: str, targets: str, steps: int | None) -> None:
    """Fit what is not fitted yet."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    for split, target in _each(names, targets):
        folder = RUNS / f"{target}-{split.name}"

        def say(progress: TrainingProgress, name: str = folder.name) -> None:
            print(f"{name} {progress} {progress.seconds:.0f} s", flush=True)

        train(recipe_for(split, target, steps), folder, RUNS / "data", fabric, say)


@main.command("predict")
@click.option("--splits", "names", default=FOLDS, show_default=True)
@click.option("--targets", default="e_ads,total", show_default=True)
@click.option("--steps", type=int, default=None, help="As for train.")
def predict_command(names: str, targets: str, steps: int | None) -> None:
    """Predictions for what each finished network did not see, with all frames, into predictions.csv
    of its run.
    """
    for split, target in _each(names, targets):
        folder, recipe = RUNS / f"{target}-{split.name}", recipe_for(split, target, steps)
        samples = read_store(prepare_store(recipe, RUNS / "data"))
        potential, held_out = finished(folder, recipe, samples), samples.held_out
        told = pair_predictions(potential, held_out)
        ends = [int((~s.fixed).any(1).sum()) for s in held_out]
        _write(folder / "predictions.csv", held_out, told, ends)
        print(folder.name, f"{abs(told.energy - told.energy_reference).mean():.4f} eV", flush=True)


def finished(folder: Path, recipe: Recipe, samples: Samples) -> NetworkPotential:
    """The trained network of a run, with all frames."""
    if steps_done(folder / CHECKPOINT) < recipe.training.steps:
        raise SystemExit(f"{folder} is not finished; run train first")
    run = start_training(recipe, samples.training)
    load_checkpoint(folder / CHECKPOINT, run.model.network, run.optimizer, run.average)
    return NetworkPotential(
        model=run.averaged(), policy=frame_policy(FRAMES), force_mode=recipe.model.force_mode
    )


@main.command("large")
@click.option("--steps", type=int, default=None, help="As for train.")
def large_command(steps: int | None) -> None:
    """Errors of the networks of the folds, together, on large molecules."""
    potentials = []
    for split, target in _each(FOLDS, "e_ads"):
        recipe = recipe_for(split, target, steps)
        potentials.append(
            finished(
                RUNS / f"{target}-{split.name}",
                recipe,
                read_store(prepare_store(recipe, RUNS / "data")),
            )
        )
    (RUNS / page.LARGE).write_text(json.dumps(large.errors(potentials)))


def _write(path: Path, samples: Sequence[Any], told: Any, counts: Sequence[int]) -> None:
    errors = abs(told.displacement - told.displacement_reference).mean(1)
    null, first = abs(told.displacement_reference).mean(1), 0
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["sid", "energy", "reference", "position_mae", "position_null", "n_free"])
        for sample, energy, wanted, n in zip(
            samples, told.energy, told.energy_reference, counts, strict=True
        ):
            rows = slice(first, first + n)
            writer.writerow(
                [
                    sample.group,
                    f"{energy:.5f}",
                    f"{wanted:.5f}",
                    f"{errors[rows].mean():.5f}",
                    f"{null[rows].mean():.5f}",
                    n,
                ]
            )
            first += n


@main.command("page")
def page_command() -> None:
    """Tables of all predictions; what was not predicted anew stays as it was."""
    results = page.collect(RUNS, json.loads((HERE / "results.json").read_text()))
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    page.write(results, HERE / "README.md")


@main.command("ship")
def ship_command() -> None:
    """The model folder models/faenet-is2re, of the networks of the folds; after `page`."""
    runs = [RUNS / f"e_ads-{name}" for name in FOLDS.split(",")]
    told = [page.read_predictions(run / "predictions.csv") for run in runs]
    card.ship(runs, json.loads((HERE / "results.json").read_text()), told)


if __name__ == "__main__":
    main()
