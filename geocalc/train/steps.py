"""Training step: gradients of one batch, split over processes and micro-batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geocalc.errors import NonFiniteError
from geocalc.frames.policy import frame_policy
from geocalc.potentials.card import Task
from geocalc.potentials.network import EnergyModel, ForceMode, evaluate
from geocalc.train.descent import REMEDY, descend, mean_of_processes
from geocalc.train.loader import Batch, MicroBatch
from geocalc.train.loss import Losses, extent, loss, pair_loss
from geocalc.train.recipe import Recipe
from geocalc.train.run import Run

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
    settings, systems, labels = recipe.training, part.systems, part.labels
    by_gradient = settings.force_weight or settings.gradient_target_weight
    mode = ForceMode.GRADIENT if by_gradient else ForceMode.NONE
    policy = frame_policy(settings.frames_at(step))
    with fabric.autocast():
        prediction = evaluate(
            model,
            systems,
            part.graph,
            part.levels,
            policy,
            mode,
            nodes=part.nodes,
            training=True,
            generator=part.draws,
        )
    if recipe.task is Task.IS2RE:
        losses = pair_loss(
            prediction,
            systems,
            labels,
            settings,
            model.energy_scale,
            model.force_scale,
            whole,
            step,
        )
    else:
        losses = loss(
            prediction,
            prediction.direct_forces,
            systems,
            labels,
            settings,
            model.energy_scale,
            whole,
        )
    total = float(losses.total.detach())
    if not math.isfinite(total):
        raise NonFiniteError(f"the loss is {total} at step {step}; {REMEDY}")
    losses.total.backward()
    return Losses(losses.total.detach(), losses.energy, losses.vectors)
