"""One step of the optimiser on one batch, however many processes and micro-batches it is cut into."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from geocalc.card import Task
from geocalc.errors import NonFiniteError
from geocalc.frames import frame_policy
from geocalc.potential import EnergyModel, ForceMode, evaluate
from geocalc.train.feed import Batch, Part
from geocalc.train.loss import Losses, extent, loss, pair_loss
from geocalc.train.recipe import Recipe
from geocalc.train.run import Run

REMEDY = "go on from the last checkpoint with --resume and a lower training.learning_rate or training.clip_norm"


def update(run: Run, batch: Batch, recipe: Recipe, step: int, fabric: Fabric) -> Losses:
    """One step of the optimiser.

    Args:
        run: changed. batch: this process's share. recipe: of the run. step: counted from 0. fabric: the processes.
    Returns:
        This process's share of the losses; their mean over processes is that of the whole batch.
    Raises:
        NonFiniteError: the loss or its gradient is NaN or infinite; nothing has been changed.
    """
    settings = recipe.training
    for group in run.optimizer.param_groups:
        group["lr"] = settings.rate_at(step)
    losses = take_step(run.model, batch, recipe, step, fabric)
    _share_gradients(run.model.network, fabric)
    norm = nn.utils.clip_grad_norm_(run.model.network.parameters(), settings.clip_norm)
    if not math.isfinite(float(norm)):
        raise NonFiniteError(f"the gradient of the loss is {float(norm)} at step {step}; {REMEDY}")
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.average.update(run.model.network)
    return losses


def take_step(model: EnergyModel, batch: Batch, recipe: Recipe, step: int, fabric: Fabric) -> Losses:
    """Forward, loss and backward of every part; the sum of their gradients is left on the parameters.

    Losses are means over the whole batch, so its extent is counted first, over parts and processes.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    parts = [part.to(fabric.device) for part in batch]
    whole = torch.stack([extent(part.systems, part.labels, recipe.training, recipe.task) for part in parts]).sum(0)
    whole = mean_of_processes(fabric, whole)
    found = [_backward(model, part, recipe, step, whole, fabric) for part in parts]
    return Losses(
        total=torch.stack([one.total for one in found]).sum(),
        energy=torch.stack([one.energy for one in found]).sum(),
        vectors=torch.stack([one.vectors for one in found]).sum(),
    )


def _backward(model: EnergyModel, part: Part, recipe: Recipe, step: int, whole: Tensor, fabric: Fabric) -> Losses:
    """Add the gradient of one part."""
    settings, systems, labels = recipe.training, part.systems, part.labels
    by_gradient = settings.force_weight or settings.gradient_target_weight
    mode = ForceMode.GRADIENT if by_gradient else ForceMode.NONE
    policy = frame_policy(settings.frames_at(step))
    with fabric.autocast():
        prediction = evaluate(
            model, systems, part.graph, part.levels, policy, mode, nodes=part.nodes, training=True, generator=part.draws
        )
    if recipe.task is Task.IS2RE:
        losses = pair_loss(prediction, systems, labels, settings, model.energy_scale, model.force_scale, whole, step)
    else:
        losses = loss(prediction, prediction.direct_forces, systems, labels, settings, model.energy_scale, whole)
    total = float(losses.total.detach())
    if not math.isfinite(total):
        raise NonFiniteError(f"the loss is {total} at step {step}; {REMEDY}")
    losses.total.backward()
    return Losses(losses.total.detach(), losses.energy, losses.vectors)


def mean_of_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """The mean over processes, where there are several."""
    return values if fabric.world_size == 1 else torch.as_tensor(fabric.all_reduce(values, reduce_op="mean"))


def _share_gradients(network: nn.Module, fabric: Fabric) -> None:
    """Average gradients over processes, in one message; a loss on forces differentiates twice, which DDP's hooks do not follow."""
    if fabric.world_size == 1:
        return
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat: Any = fabric.all_reduce(torch.cat([grad.flatten() for grad in grads]), reduce_op="mean")
    for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
