"""One step of the optimizer, over however many processes."""

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
    """One step of the optimizer along the gradients that `backward` leaves on the parameters.

    Args:
        run: changed.
        settings: of it.
        step: counted from 0.
        fabric: the processes, whose gradients are averaged.
        backward: leaves gradients of this process's share on the parameters.
    Returns:
        What `backward` returns.
    Raises:
        NonFiniteError: the gradient is NaN or infinite; nothing has been changed.
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
    """The mean over processes, where there are several."""
    return (
        values
        if fabric.world_size == 1
        else torch.as_tensor(fabric.all_reduce(values, reduce_op="mean"))
    )


def _share_gradients(network: nn.Module, fabric: Fabric) -> None:
    """Average gradients over processes, in one message; a loss on forces differentiates twice,
    which DDP's hooks do not follow.
    """
    if fabric.world_size == 1:
        return
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat: Any = fabric.all_reduce(torch.cat([grad.flatten() for grad in grads]), reduce_op="mean")
    for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
