"""Measure a trained row: errors on held-out structures, symmetry errors, speed, and differences of
features along the layers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from rows import Row
from torch import nn

from geocalc import Systems
from geocalc.data import (
    Data,
    ReferenceRelaxation,
    Sample,
    Samples,
    collate_samples,
    prepare_store,
    read_store,
    reference_relaxations,
)
from geocalc.evaluation import (
    OperationErrors,
    average_distance_within_threshold,
    errors_of,
    layer_mad,
    measure_symmetry_errors,
    pair_errors,
    pair_predictions,
    predictions,
    relax_references,
    summarize,
)
from geocalc.frames import FramePick, frame_policy
from geocalc.potentials import EnergyModel, NetworkPotential, Task
from geocalc.train import CHECKPOINT, Recipe, load_checkpoint, start_training

N_SYMMETRY, N_TIMED, N_MAD = 8, 64, 32  # structures
Numbers = dict[str, float | None]  # None and NaN are left out of what is written


def measure(
    row: Row, recipe: Recipe, folder: Path, data: Path, limit: int | None = None
) -> Numbers:
    """What is measured of a run of a row, by name.

    Args:
        row, recipe: of the run.
        folder: of the run.
        data: where prepared data are kept.
        limit: of held-out structures, for a trial.
    """
    samples = read_store(prepare_store(recipe, data))
    potential = finished(recipe, folder, samples, row.frames or recipe.model.frames)
    held_out = samples.held_out[:limit]
    network = potential.model.network
    found: Numbers = {"parameters": _count(network)}
    if network.canonicalizer is not None:
        found["canonicalizer_parameters"] = _count(network.canonicalizer)
    if recipe.task is Task.IS2RE:
        found |= _direct(potential, held_out)
    else:
        found |= vars(errors_of(predictions(potential, held_out)))
        found |= _iterative(potential, _references(recipe.data.model_dump_json())[:limit])
    if "symmetry" in row.also:
        found |= _symmetry(potential, _spread(held_out, N_SYMMETRY))
    if "mad" in row.also:
        found |= _mad(potential, _spread(held_out, N_MAD))
    found["structures_per_s"] = _speed(potential, _spread(held_out, N_TIMED))
    return {
        name: float(value)
        for name, value in found.items()
        if value is not None and np.isfinite(value)
    }


def _direct(potential: NetworkPotential, held_out: Samples) -> Numbers:
    """Errors of relaxed energies, and of geometries where displacements are predicted, under the
    names of `_iterative` too.
    """
    told = pair_predictions(potential, held_out)
    errors = pair_errors(told)
    found: Numbers = vars(errors) | {"e_mae": errors.energy_mae, "ewt": errors.within_0p02}
    if told.displacement is None:
        return found
    away = np.linalg.norm(told.displacement - told.displacement_reference, axis=1)
    ends = np.cumsum([int((~sample.fixed).any(1).sum()) for sample in held_out])
    distances = np.array([part.mean() for part in np.split(away, ends[:-1])])
    return found | {
        "x_mae": errors.position_mae,
        "adwt": average_distance_within_threshold(distances),
    }


@lru_cache(maxsize=1)
def _references(data: str) -> list[ReferenceRelaxation]:
    """Held-out relaxations of data in JSON, read once for all rows that share them."""
    return reference_relaxations(Data.model_validate_json(data), 0)


def _iterative(potential: NetworkPotential, references: Sequence[ReferenceRelaxation]) -> Numbers:
    """Errors of relaxations from the first frames to 0.05 eV/Angstrom."""
    relaxed = summarize(relax_references(potential, references))
    found = {f"relaxed_{name}": float(value) for name, value in vars(relaxed).items()}
    names = {"e_mae": "energy_mae", "ewt": "within_0p02", "x_mae": "position_mae", "adwt": "adwt"}
    return found | {short: found[f"relaxed_{name}"] for short, name in names.items()}


def finished(recipe: Recipe, folder: Path, samples: Samples, frames: str) -> NetworkPotential:
    """The last network of a run, when the learning rate has come to zero, with frames by name."""
    run = start_training(recipe, samples.training)
    load_checkpoint(folder / CHECKPOINT, run.model.network, run.optimizer, run.average)
    policy = frame_policy(frames)
    seed = 0 if policy.pick is FramePick.STOCHASTIC else None
    return NetworkPotential(
        model=run.model.eval(), policy=policy, force_mode=recipe.model.force_mode, seed=seed
    )


def _count(module: nn.Module) -> float:
    """Parameters of a module."""
    return float(sum(p.numel() for p in module.parameters()))


def _spread(samples: Samples, n: int) -> list[Sample]:
    """Some of the samples, from all over them."""
    return [samples[int(k)] for k in np.linspace(0, len(samples) - 1, min(n, len(samples)))]


def _symmetry(potential: NetworkPotential, samples: Sequence[Sample]) -> Numbers:
    """Means and maxima by operation, in float64, so that exact ones leave nothing but rounding."""
    model = replace(potential, model=_in_float64(potential.model))
    errors = measure_symmetry_errors(model, _systems(samples))
    found: Numbers = {}
    for field in fields(errors):
        one: OperationErrors | None = getattr(errors, field.name)
        if one is None:
            continue
        for name in ("energy", "forces", "displacement"):
            if getattr(one, name) is not None:
                found[f"{field.name}_{name}"] = getattr(one, name).mean
                found[f"{field.name}_{name}_max"] = getattr(one, name).maximum
    return found


def _in_float64(model: EnergyModel) -> EnergyModel:
    """The model with its network in float64; the one that is given becomes it too."""
    nn.Module.double(model.network)
    return model


def _systems(samples: Sequence[Sample]) -> Systems:
    return collate_samples(list(samples))[0]


def _speed(potential: NetworkPotential, samples: Sequence[Sample]) -> float:
    """Structures each second of processor time on one thread, one after the other, in float32; the
    median of them.
    """
    potential.model.network.float()
    seconds = []
    for sample in samples:
        systems = _systems([sample])
        begin = time.process_time()
        potential(systems)
        seconds.append(time.process_time() - begin)
    return 1 / float(np.median(seconds))


def _mad(potential: NetworkPotential, samples: Sequence[Sample]) -> Numbers:
    """Mean average distance of the features after the first, the middle and the last block, over
    neighbors and over all pairs.
    """
    potential.model.network.float()
    with torch.no_grad():
        layers = layer_mad(potential.model, _systems(samples), potential.policy)
    found: Numbers = {}
    for place, layer in (
        ("first", layers[1]),
        ("middle", layers[len(layers) // 2]),
        ("last", layers[-1]),
    ):
        found |= {f"mad_{place}": layer.neighbors, f"mad_{place}_all": layer.all_pairs}
    return found
