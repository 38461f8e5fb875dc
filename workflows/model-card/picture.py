"""Plot predictions of a shipped model against held-out references, into parity.png of its folder.

Usage:
    GEOCALC_DATA=... python workflows/model-card/picture.py [faenet-sfa]

Structures are the validation split of the first source of the model's recipe, with the default
frames and the defaults of `geocalc relax`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from geocalc import LoadedModel, load_model
from geocalc.core import configure_process
from geocalc.data import prepare_store, read_store, reference_relaxations
from geocalc.evaluation import (
    Panel,
    draw_panels,
    pair_panels,
    pair_predictions,
    predictions,
    relax_references,
    relaxed_panels,
    single_point_panels,
)
from geocalc.potentials import Task
from geocalc.train import Recipe, read_recipe

ROOT = Path(__file__).parents[2]
PICTURE = "parity.png"


def draw(model: LoadedModel, recipe: Recipe) -> Path:
    """The picture of a model."""
    held_out = [
        s
        for s in read_store(prepare_store(recipe, ROOT / "runs" / "data"))
        if s.validation and s.source == 0
    ]
    pictures: dict[str, list[Panel]] = {}
    if recipe.task is Task.IS2RE:
        pictures |= pair_panels(pair_predictions(model, held_out), model.card, "")
        titles = ["held-out structures", "their errors", "ways to the relaxed geometry"]
    else:
        pictures |= single_point_panels(predictions(model, held_out), model.card, "")
        pairs = relax_references(
            model, reference_relaxations(recipe.data, 0, use_tags=model.card.reads_tags)
        )
        pictures |= relaxed_panels(pairs, model.card, "")
        titles = [
            "held-out frames",
            "free atoms of held-out frames",
            "held-out relaxations",
            "their errors",
        ]
    panels = [panel for row in pictures.values() for panel in row]
    return draw_panels(
        [replace(panel, title=title) for panel, title in zip(panels, titles, strict=True)],
        model.folder / PICTURE,
    )


@click.command()
@click.argument("name", default="faenet-sfa")
def main(name: str) -> None:
    """Evaluate and draw."""
    configure_process()
    model = load_model(name)
    print(draw(model, read_recipe(model.folder / "recipe.yaml")))


if __name__ == "__main__":
    main()
