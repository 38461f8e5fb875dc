"""Make a model folder from a run: weights, domain, error bars and figures of the card.

Error bars are calibrated on validation structures: relaxations on pure metals from their first DFT
frames, and relaxed structures of the other sets of the default level from displaced starts.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from figures import figures
from measure import of, start_of
from parents import BEEF, SETS, Parent

import geocalc
from geocalc import load_model
from geocalc.data import is_validation, reference_relaxations
from geocalc.evaluation import relax_references
from geocalc.potentials import calibrate, read_card, write_card
from geocalc.train import Recipe, read_recipe

FILES = (("", ""), ("panel-", "l"), ("lights-", ""))  # of a model, before and after its name
CALIBRATED_ON = ("wwl-simple", "wwl-complex", "cathub")


def calibrate_bars(folder: Path) -> None:
    """Calibrate the error bars of a model and write them into its card."""
    recipe = read_recipe(folder / "recipe.yaml")
    errors, novelties = [], []
    model = load_model(folder, level=recipe.data.sources[0].level)
    for pair in relax_references(model, reference_relaxations(recipe.data, 0)):
        errors.append(pair.energy - pair.reference)
        novelties.append(pair.novelty)
    parents = held_out(recipe)
    results = geocalc.relax([start_of(one) for one in parents], folder, level=of(str(folder), BEEF))
    for parent, result in zip(parents, results, strict=True):
        record = result.record
        if record.energy is not None and record.novelty is not None:
            errors.append(record.energy - parent.energy)
            novelties.append(record.novelty)
    off, novelty = np.array(errors), np.array(novelties)
    judged = novelty <= 2.0  # red ones have no bars
    made = calibrate(off[judged], None, novelty[judged])
    print(f"{len(off)} structures, {int(judged.sum())} green or amber: {made}")
    write_card(folder, read_card(folder).model_copy(update={"calibration": made}))


def held_out(recipe: Recipe) -> list[Parent]:
    """Structures of the default level in the validation split."""
    return [
        parent
        for name in CALIBRATED_ON
        for parent in SETS[name]()
        if parent.part == "train" and is_validation(parent.sid, recipe.data)
    ]


def add_figures(folder: Path, measured: Path) -> None:
    """Write the figures of the test parts, from the folder `measured`, into metrics.json of a model."""
    target = folder / "metrics.json"
    name = folder.name
    files = [measured / f"{one}{name}.json{end}" for one, end in FILES]
    metrics = json.loads(target.read_text()) | {"wide": figures(*files)}
    target.write_text(json.dumps(metrics, indent=1) + "\n")
