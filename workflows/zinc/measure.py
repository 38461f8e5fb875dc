"""Measure a finished run on its held-out molecules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geocalc.properties import (
    VALIDATION,
    PropertyErrors,
    PropertyRecipe,
    predict_graphs,
    property_errors,
    read_split,
    start_property,
)
from geocalc.train import CHECKPOINT, load_checkpoint, read_log

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A finished training and its errors on what it has not seen.

    Attributes:
        name, fold: of the recipe's file, and what was held out.
        weights: number of parameters.
        steps, epochs: of the optimizer, and through the training molecules.
        seconds: that they took.
        errors: of the averaged last weights.
        mean_mae: mean absolute error of predicting the mean of the training molecules.
        predicted, known: (n,) of each molecule held out.
        curve: (step, R2 on what was held out) along the way.
    """

    name: str
    fold: int
    weights: int
    steps: int
    epochs: float
    seconds: float
    errors: PropertyErrors
    mean_mae: float
    predicted: np.ndarray
    known: np.ndarray
    curve: tuple[tuple[int, float], ...]


def measure(name: str, recipe: PropertyRecipe, folder: Path) -> Fit:
    """Predict the fold that a run held out with the averaged weights of its last step; nothing is
    chosen by that fold.
    """
    split = read_split(recipe.data, folder)
    run = start_property(recipe, split.training)
    load_checkpoint(folder / CHECKPOINT, run.model.network, run.optimizer, run.average)
    model, log = run.averaged(), read_log(folder)
    predicted = np.concatenate(list(predict_graphs(model, split.validation, CPU)))[:, 0]
    known, learned = (
        np.array([float(s.targets[0, 0]) for s in part])
        for part in (split.validation, split.training)
    )
    return Fit(
        name=name,
        fold=recipe.data.fold,
        weights=sum(p.numel() for p in model.network.parameters()),
        steps=recipe.training.steps,
        epochs=recipe.training.steps * recipe.training.batch_size / len(split.training),
        seconds=_seconds([entry["seconds"] for entry in log]),
        errors=property_errors(predicted[:, None], known[:, None]),
        mean_mae=float(np.abs(known - learned.mean()).mean()),
        predicted=predicted,
        known=known,
        curve=tuple(
            (e["step"], e["validation"][VALIDATION]["r2"]) for e in log if "validation" in e
        ),
    )


def _seconds(elapsed: list[float]) -> float:
    """Of all pieces of a run, from the times since each began, in order."""
    return sum(a for a, b in zip(elapsed, [*elapsed[1:], 0.0], strict=True) if b < a)
