"""One optimizer step, with gradients averaged over processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from geocalc.errors import NonFiniteError
from geocalc.train.run import Run
from geocalc.train.settings import Optimization

if TYPE_CHECKING:
    from lightning_fabric import Fabric

REMEDY = (
    "go on from the last checkpoint with --resume and a lower training.learning_rate or"
    " training.clip_norm"
)
Found = TypeVar("Found")


def descend(
    run: Run[Any], settings: Optimization, step: int, fabric: Fabric, backward: Callable[[], Found]
) -> Found:
    """Take one optimizer step along the gradients that `backward` computes.

    Args:
        run: model, optimizer and average; updated in place.
        settings: learning rate and gradient clipping.
        step: counted from 0.
        fabric: processes over which gradients are averaged.
        backward: computes this process's part of the gradients on the parameters.
    Returns:
        The result of `backward`.
    Raises:
        NonFiniteError: the gradient is NaN or infinite; the parameters are unchanged.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = settings.rate_at(step)
    found = backward()
    _share_gradients(run.model.network, fabric)
    norm = nn.utils.clip_grad_norm_(run.model.network.parameters(), settings.clip_norm)
    if not math.isfinite(float(norm)):
        raise NonFiniteError(f"the gradient of the loss is {float(norm)} at step {step}; {REMEDY}")
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.average.update(run.model.network)
    return found


def mean_of_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """Average values over processes."""
    return (
        values
        if fabric.world_size == 1
        else torch.as_tensor(fabric.all_reduce(values, reduce_op="mean"))
    )


def _share_gradients(network: nn.Module, fabric: Fabric) -> None:
    """Average gradients over processes in one message.

    DDP's hooks do not support the second derivatives of a loss on forces.
    """
    if fabric.world_size == 1:
        return
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat: Any = fabric.all_reduce(torch.cat([grad.flatten() for grad in grads]), reduce_op="mean")
    for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
