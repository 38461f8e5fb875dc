"""Measure a shipped model and write its metrics.json and README.md (the card).

Usage:
    GEOCALC_DATA=... python workflows/model-card/run.py [faenet-sfa] [--render] [--only PART]

Structures are the validation split of the model's recipe (relaxations held out by name), and an
outside set: adsorbates on (111) surfaces of nine metals in larger and thicker slabs than those of
training (WWL-GPR, Xu, Reuter, Andersen 2022). float32, CPU, one thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import measurements
import picture
import table
import text
import torch

from geocalc import LoadedModel, load_model
from geocalc.core import configure_process
from geocalc.potentials import find_model
from geocalc.runs import versions
from geocalc.train import Recipe, read_recipe

ROOT = Path(__file__).parents[2]
PARTS = ("single_points", "relaxations", "intervals", "outside", "milliseconds")
# of models that have learned from the outside set; workflows/wide-potential calibrates them
WIDE_PARTS = ("single_points", "relaxations", "milliseconds")


@click.command()
@click.argument("name", default="faenet-sfa")
@click.option(
    "--render", is_flag=True, help="Only write the pages again, from metrics.json as it is."
)
@click.option("--only", type=click.Choice(PARTS), help="Measure this part again.")
def main(name: str, render: bool, only: str | None) -> None:
    """Measure and write."""
    configure_process()
    folder = find_model(name)
    recipe = read_recipe(folder / "recipe.yaml")
    model = load_model(name)
    measured = (
        json.loads((folder / "metrics.json").read_text()) if render or only else about(name, recipe)
    )
    measured |= {} if render else measure(name, recipe, model, [only] if only else parts_of(recipe))
    if not (render or only):
        picture.draw(model, recipe)
    (folder / "metrics.json").write_text(json.dumps(measured, indent=1) + "\n")
    (folder / "README.md").write_text(text.card(model, recipe, measured))
    table.main()
    print(text.card(model, recipe, measured))


def parts_of(recipe: Recipe) -> Sequence[str]:
    """What is measured of a model with such data."""
    return WIDE_PARTS if text.is_wide(recipe) else PARTS


def about(name: str, recipe: Recipe) -> dict[str, Any]:
    """On what, and of what, the card quotes figures."""
    return {
        "machine": f"{measurements.processor()}, one thread, float32, torch {torch.__version__}",
        "command": f"python workflows/model-card/run.py {name}",
        "versions": versions(),
        "seed": recipe.training.seed,
        "steps": recipe.training.steps,
    }


def measure(name: str, recipe: Recipe, model: LoadedModel, parts: Sequence[str]) -> dict[str, Any]:
    """The figures that the card quotes."""
    ways: dict[str, Callable[[], Any]] = {
        "single_points": lambda: measurements.single_points(model, recipe),
        "relaxations": lambda: measurements.relaxations(name, recipe),
        "intervals": lambda: measurements.intervals(name, recipe),
        "outside": lambda: measurements.outside(name),
        "milliseconds": lambda: measurements.speed(name),
    }
    return {part: ways[part]() for part in parts}


if __name__ == "__main__":
    main()
