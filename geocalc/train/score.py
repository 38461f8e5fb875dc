"""Validation errors of a model, and the error by which runs are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from geocalc.data.settings import DataSource
from geocalc.data.store import Samples
from geocalc.evaluation.is2re import PairErrors, pair_errors, pair_predictions
from geocalc.evaluation.single_points import Errors as ForceErrors
from geocalc.evaluation.single_points import errors_of, known_numbers, predictions
from geocalc.potentials.card import Task
from geocalc.potentials.network import EnergyModel, ForceMode, NetworkPotential
from geocalc.train.loop import Errors
from geocalc.train.recipe import Recipe, single_frame


def score(model: EnergyModel, recipe: Recipe, samples: Samples, device: torch.device) -> Errors:
    """Compute the errors of the model as a potential with one frame, by source file."""
    plain = NetworkPotential(
        model=model.to(device),
        policy=single_frame(recipe.model),
        force_mode=recipe.model.force_mode,
    )
    found = {}
    for number, source in enumerate(recipe.data.sources):
        potential = replace(plain, level=recipe.source_levels[number])
        some = samples.where(samples.sample_index.source == number)
        if len(some):
            found[str(source.path)] = known_numbers(
                _errors(potential, source, recipe.task, some, device)
            )
    return found


def _errors(
    potential: NetworkPotential, source: DataSource, task: Task, some: Samples, device: torch.device
) -> PairErrors | ForceErrors:
    if task is Task.IS2RE:
        return pair_errors(pair_predictions(potential, some, device))
    return errors_of(predictions(potential, some, device, energies=source.energies))


def validation_error(errors: Errors, recipe: Recipe, model: EnergyModel) -> float:
    """Combine the energy MAE and the force or position MAE with the weights of the loss.

    The result is in units of the loss. Each structure counts once, whatever its source; force and
    position errors are those of free atoms.
    """
    weights = recipe.training
    if recipe.task is Task.IS2RE:
        name, vector_weight = "position_mae", weights.displacement_weight
    else:
        name, vector_weight = "force_mae", weights.force_weight + weights.direct_force_weight
        vector_weight = 0.0 if recipe.model.force_mode is ForceMode.NONE else vector_weight
    energy = weights.energy_weight * mean_error(errors, "energy_mae") / model.energy_scale
    return (
        energy
        if not vector_weight
        else energy + vector_weight * mean_error(errors, name) / model.force_scale
    )


def mean_error(errors: Mapping[str, Mapping[str, float]], name: str) -> float:
    """Average a mean absolute error over sources, weighted by their numbers of structures."""
    known = [one for one in errors.values() if name in one]
    return math.fsum(one["n"] * one[name] for one in known) / max(
        1.0, math.fsum(one["n"] for one in known)
    )
