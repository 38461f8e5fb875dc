"""Train and test FAENet and SchNet on QM7 (energies) and on ethanol of rMD17 (energies and forces).

Usage:
    GEOCALC_DATA=... python workflows/molecules/run.py train|evaluate|page [--names qm7-faenet,...]
        [--steps N]

`train` fits each recipe of this folder in runs/molecules and resumes where it was stopped;
`evaluate` measures finished networks on the test sets, which are used in neither training nor
validation; `page` writes results.json and the tables of README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from lightning_fabric import Fabric

from geocalc.core import configure_process, in_ev
from geocalc.data import Sample, locate, prepare_store, read_store, samples_of_file, samples_of_test
from geocalc.evaluation import errors_of, known_numbers, mae, predictions
from geocalc.frames import frame_policy
from geocalc.potentials import NetworkPotential
from geocalc.train import (
    CHECKPOINT,
    Recipe,
    TrainingProgress,
    load_checkpoint,
    read_log,
    read_recipe,
    start_training,
    steps_done,
    train,
)

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "molecules"
NAMES = "qm7-faenet,qm7-schnet,rmd17-ethanol-faenet,rmd17-ethanol-schnet"
TEST_FILE = Path(
    "rmd17/rmd17_ethanol_test_01.npz"
)  # what a recipe without test_fraction is tested on
KCAL = in_ev("kcal/mol")
HEAD = {
    "qm7": "| network | weights | steps | energy MAE (meV) | energy MAE (kcal/mol) | RMSE (kcal/mol) | by composition (kcal/mol) |",
    "rmd17-ethanol": "| network | weights | steps | energy MAE (meV) | energy MAE (kcal/mol) | force MAE (meV/Å) "
    "| force MAE (kcal/mol/Å) | mean energy (meV) | no force (meV/Å) |",
}


def _recipes(names: str, steps: int | None) -> Iterator[tuple[Recipe, Path]]:
    """Each recipe and its run folder; shortened ones have folders of their own."""
    for name in names.split(","):
        cut = (
            () if steps is None else (f"training.steps={steps}", f"training.evaluate_every={steps}")
        )
        recipe = read_recipe(HERE / f"{name}.yaml", cut)
        yield recipe, RUNS / f"{name}-{recipe.training.steps}"


@click.group()
def main() -> None:
    """Networks of molecules."""
    configure_process()


names_option = click.option("--names", default=NAMES, show_default=True)
steps_option = click.option("--steps", type=int, default=None, help="Instead of the recipe's.")


@main.command("train")
@names_option
@steps_option
def train_command(names: str, steps: int | None) -> None:
    """Fit what is not fitted yet."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    for recipe, folder in _recipes(names, steps):

        def say(now: TrainingProgress, name: str = folder.name) -> None:
            print(f"{name} {now} {now.seconds:.0f} s", flush=True)

        train(recipe, folder, RUNS / "data", fabric, say)


@main.command("evaluate")
@names_option
@steps_option
def evaluate_command(names: str, steps: int | None) -> None:
    """Errors on the test sets, into test.json of each run that has none yet."""
    for recipe, folder in _recipes(names, steps):
        if steps_done(folder / CHECKPOINT) < recipe.training.steps:
            raise SystemExit(f"{folder} is not finished; run train first")
        if not (folder / "test.json").exists():
            (folder / "test.json").write_text(
                json.dumps(_measured(recipe, folder), indent=1) + "\n"
            )
        print(folder.name, (folder / "test.json").read_text(), flush=True)


def _measured(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Errors of the averaged last weights with all frames, beside those of the per-element
    references alone.
    """
    run = start_training(recipe, read_store(prepare_store(recipe, RUNS / "data")).training)
    load_checkpoint(folder / CHECKPOINT, run.model.network, run.optimizer, run.average)
    model, samples = run.averaged(), _test_set(recipe)
    potential = NetworkPotential(
        model=model, policy=frame_policy(recipe.model.frames), force_mode=recipe.model.force_mode
    )
    told = predictions(potential, samples)
    plain = (
        torch.stack([model.references[0, torch.from_numpy(s.numbers)].sum() for s in samples])
        .cpu()
        .numpy()
    )
    return {
        "name": recipe.name,
        "network": recipe.model.architecture,
        "weights": sum(p.numel() for p in model.network.parameters()),
        "steps": recipe.training.steps,
        "seconds": max(entry["seconds"] for entry in read_log(folder)),
        "energy_null": mae(plain - told.energy_reference),
        **known_numbers(errors_of(told)),
    }


def _test_set(recipe: Recipe) -> list[Sample]:
    return (
        samples_of_test(recipe)
        if recipe.data.test_fraction
        else samples_of_file(locate(TEST_FILE), use_tags=False)
    )


@main.command("page")
def page_command() -> None:
    """Tables of all that was measured; what was not measured anew stays as it was."""
    known = {
        (row["name"], row["steps"]): row for row in json.loads((HERE / "results.json").read_text())
    }
    for file in sorted(RUNS.glob("*/test.json")):
        row = json.loads(file.read_text())
        known[row["name"], row["steps"]] = row
    rows = [known[key] for key in sorted(known)]
    (HERE / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = (HERE / "README.md").read_text()
    for name, head in HEAD.items():
        found = [_line(row) for row in rows if row["name"].startswith(name)]
        lines = (
            [head, "|---" * (head.count("|") - 1) + "|", *found] if found else ["Not measured yet."]
        )
        before, rest = text.split(f"<!-- {name} -->")
        _, after = rest.split(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- /{name} -->{after}"
    (HERE / "README.md").write_text(text)


def _line(row: dict[str, Any]) -> str:
    energy = f"| {row['network']} | {row['weights']:,} | {row['steps']:,} | {1e3 * row['energy_mae']:.1f} | {row['energy_mae'] / KCAL:.2f}"
    if "force_mae" not in row:
        return f"{energy} | {row['energy_rmse'] / KCAL:.2f} | {row['energy_null'] / KCAL:.2f} |"
    forces = f"{1e3 * row['force_mae']:.1f} | {row['force_mae'] / KCAL:.2f}"
    return f"{energy} | {forces} | {1e3 * row['energy_null']:.0f} | {1e3 * row['force_null']:.0f} |"


if __name__ == "__main__":
    main()
