"""Optimizers of trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# quintic polynomial whose iteration takes singular values to about one (0.7 to 1.2)
STEEP = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
LIKE_ADAM = 0.2  # root mean square of an update of Adam, at a learning rate of one
SMALLEST = 8  # a matrix with fewer rows or columns is left to Adam


class Muon(Optimizer):
    """Momentum with orthogonalized updates for weight matrices, and AdamW for all other weights.

    The update of a matrix is made orthogonal, so that all directions of the gradient count equally,
    also those that hardly show in it, and is scaled to the size of an update of Adam. Learning
    rates are those of AdamW, or larger.

    torch.optim.Muon takes only matrices, and computes in bfloat16, which is slow on CPUs.

    Args:
        params: parameters, or groups with `matrices: True` where updates are orthogonalized.
        lr: learning rate.
        betas: of Adam.
        momentum: of the matrices.
        weight_decay: decoupled from the gradient, as in AdamW.

    Source: Jordan et al., Muon (2024), kellerjordan.github.io/posts/muon; scale of Liu et al.,
    arXiv 2502.16982 (2025).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "matrices": False,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step along the gradients of the parameters.

        Args:
            closure: evaluates the loss again, and returns it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                move = _orthogonal_move if group["matrices"] else _adam_move
                weight.sub_(move(weight.grad, self.state[weight], group), alpha=group["lr"])
        return loss


def orthogonalized(matrix: Tensor) -> Tensor:
    """Replace the singular values of a matrix by numbers near one (0.7 to 1.2)."""
    wide = matrix.shape[0] <= matrix.shape[1]
    found = matrix if wide else matrix.T
    found = found / (found.norm() + 1e-12)
    a, b, c = STEEP
    for _ in range(ITERATIONS):
        gram = found @ found.T
        found = a * found + (b * gram + c * (gram @ gram)) @ found
    return found if wide else found.T


def split_matrices(
    network: nn.Module, weights: Iterable[nn.Parameter]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split weights into matrices that mix features, and all others.

    Rows of embeddings stand for themselves, and belong to the others.
    """
    embedded = {m.weight for m in network.modules() if isinstance(m, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for weight in weights:
        mixes = weight.ndim == 2 and min(weight.shape) >= SMALLEST and weight not in embedded
        (matrices if mixes else others).append(weight)
    return matrices, others


def _orthogonal_move(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Compute the update of a matrix, with Nesterov momentum."""
    momentum = group["momentum"]
    if not state:
        state["average"] = _zeros(gradient)
    state["average"].lerp_(gradient, 1 - momentum)
    ahead = torch.lerp(gradient, state["average"], momentum)
    return orthogonalized(ahead) * (LIKE_ADAM * math.sqrt(max(gradient.shape)))


def _adam_move(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Compute the update of Adam."""
    first, second = group["betas"]
    if not state:
        state["n_steps"] = torch.zeros(())
        state["average"], state["square"] = _zeros(gradient), _zeros(gradient)
    state["n_steps"] += 1
    n_steps = float(state["n_steps"])
    state["average"].lerp_(gradient, 1 - first)
    state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    size = (state["square"] / (1 - second**n_steps)).sqrt_().add_(1e-8)
    return state["average"] / (size * (1 - first**n_steps))


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, memory_format=torch.contiguous_format)
