"""Training step: gradients of one batch, split over processes and micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geocalc.core.systems import Prediction
from geocalc.errors import NonFiniteError
from geocalc.frames.policy import frame_policy
from geocalc.potentials.card import Task
from geocalc.potentials.network import EnergyModel, ForceMode, evaluate
from geocalc.train.descent import REMEDY, descend, mean_of_processes
from geocalc.train.loader import Batch, MicroBatch
from geocalc.train.loss import Losses, disagreement, extent, loss, mean_of, pair_loss
from geocalc.train.recipe import Recipe
from geocalc.train.run import Run
from geocalc.train.settings import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def update(
    run: Run[EnergyModel], batch: Batch, recipe: Recipe, step: int, fabric: Fabric
) -> Losses:
    """Take one optimizer step on energies, forces and displacements.

    Args:
        run: state of the run; updated in place.
        batch: this process's part of the batch.
        recipe: recipe of the run.
        step: counted from 0.
        fabric: processes.
    Returns:
        This process's part of the losses; their mean over processes is that of the whole batch.
    Raises:
        NonFiniteError: the loss or its gradient is NaN or infinite; the parameters are unchanged.
    """
    return descend(
        run,
        recipe.training,
        step,
        fabric,
        lambda: take_step(run.model, batch, recipe, step, fabric),
    )


def take_step(
    model: EnergyModel, batch: Batch, recipe: Recipe, step: int, fabric: Fabric
) -> Losses:
    """Forward, loss and backward of every part; the sum of their gradients is left on the
    parameters.

    Losses are means over the whole batch, so its extent is counted first, over parts and processes.
    The penalty of the architecture is not a part of the losses that are returned.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    parts = [part.to(fabric.device) for part in batch]
    whole = torch.stack(
        [extent(part.systems, part.labels, recipe.training, recipe.task) for part in parts]
    ).sum(0)
    whole = mean_of_processes(fabric, whole)
    found = [_backward(model, part, recipe, step, whole, fabric) for part in parts]
    weight = recipe.training.penalty_weight_at(step)
    if weight and (penalty := model.network.penalty()).requires_grad:
        (weight * penalty).backward()
    return Losses(
        total=torch.stack([one.total for one in found]).sum(),
        energy=torch.stack([one.energy for one in found]).sum(),
        vectors=torch.stack([one.vectors for one in found]).sum(),
    )


def _backward(
    model: EnergyModel, part: MicroBatch, recipe: Recipe, step: int, whole: Tensor, fabric: Fabric
) -> Losses:
    """Add the gradients of one micro-batch and return its losses."""
    settings = recipe.training
    by_gradient = settings.force_weight or settings.gradient_target_weight
    predictions = []
    for draws in _frames_of(part, settings):
        with fabric.autocast():
            predictions.append(
                evaluate(
                    model,
                    part.systems,
                    part.graph,
                    part.levels,
                    frame_policy(settings.frames_at(step)),
                    ForceMode.GRADIENT if by_gradient else ForceMode.NONE,
                    nodes=part.nodes,
                    training=True,
                    generator=draws,
                )
            )
    losses = _losses(model, predictions, part, recipe, step, whole)
    total = float(losses.total.detach())
    if not math.isfinite(total):
        raise NonFiniteError(f"the loss is {total} at step {step}; {REMEDY}")
    losses.total.backward()
    return Losses(losses.total.detach(), losses.energy, losses.vectors)


def _losses(
    model: EnergyModel,
    predictions: Sequence[Prediction],
    part: MicroBatch,
    recipe: Recipe,
    step: int,
    whole: Tensor,
) -> Losses:
    """Compute the losses of a micro-batch: of one prediction, or the mean of two and how far they
    are apart.
    """
    settings = recipe.training
    if recipe.task is Task.IS2RE:
        return pair_loss(
            predictions[0],
            part.systems,
            part.labels,
            settings,
            model.energy_scale,
            model.force_scale,
            whole,
            step,
        )
    asked = (part.systems, part.labels, settings, model.energy_scale, whole)
    losses = mean_of([loss(one, one.direct_forces, *asked) for one in predictions])
    if len(predictions) == 1:
        return losses
    apart = settings.consistency_weight * disagreement(predictions[0], predictions[1], *asked)
    return replace(losses, total=losses.total + apart)


def _frames_of(part: MicroBatch, settings: Training) -> list[Tensor]:
    """Random numbers of the frames that a micro-batch is seen in: one set, or two for consistency,
    of which the second is the mirror image of the first.
    """
    return [part.draws, 1.0 - part.draws] if settings.consistency_weight else [part.draws]
