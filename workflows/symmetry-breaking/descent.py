"""Fit a network with more weights than targets by Levenberg-Marquardt.

A step is computed from inner products of gradients, so the steps of a rotated task are the rotated
steps, and components that symmetry forbids stay zero to rounding. Adam scales every component of a
tensor by itself: it depends on the axes, and turns rounding errors into steps where a gradient is
zero by symmetry. L-BFGS may overshoot where it has not yet measured the curvature, and lets
rounding errors grow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FIRST_DAMPING = 0.1  # as a part of the mean of the diagonal of J J^T
EASIER, HARDER = 0.2, 5.0  # factors of the damping after a step that was taken and one that was not
HARDEST = 1e8  # damping at which no step will ever help
CONVERGED = 1e-20  # a mean squared error below this is rounding
STALLED = 1e-12  # as is a change by less than this part of it


@dataclass(frozen=True)
class Descent:
    """How far it came: the mean squared error before every step and at the end."""

    losses: tuple[float, ...]


def descend(network: nn.Module, residual: Callable[[], Tensor], steps: int) -> Descent:
    """Make the mean square of some numbers small, in place.

    Args:
        network: whose parameters change.
        residual: the numbers, fewer than the parameters.
        steps: at most so many.

    Source: Marquardt, J. SIAM 11, 431 (1963), with the step J^T (J J^T + mu)^-1 r of an
    underdetermined problem.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    losses, damping = [float(residual().detach().square().mean())], FIRST_DAMPING
    for _ in range(steps):
        numbers = residual().flatten()
        unit = torch.eye(len(numbers), dtype=numbers.dtype)
        rows = torch.autograd.grad(
            numbers, weights, unit, is_grads_batched=True, allow_unused=True, materialize_grads=True
        )
        jacobian = torch.cat([row.flatten(1) for row in rows], dim=1)
        kernel, now = jacobian @ jacobian.T, numbers.detach()
        size, before = kernel.diagonal().mean(), [weight.detach().clone() for weight in weights]
        taken = False
        while not taken and damping < HARDEST:
            step = jacobian.T @ torch.linalg.solve(kernel + damping * size * unit, now)
            _move(weights, before, step)
            loss = float(residual().detach().square().mean())
            taken = loss < losses[-1]
            damping *= EASIER if taken else HARDER
        if not taken:
            _move(weights, before, torch.zeros_like(step))
            break
        losses.append(loss)
        if loss < CONVERGED or losses[-2] - loss < STALLED * loss:
            break
    return Descent(tuple(losses))


@torch.no_grad()
def _move(weights: list[Tensor], before: list[Tensor], step: Tensor) -> None:
    """Every weight where it was, less its part of the step."""
    parts = step.split([weight.numel() for weight in weights])
    for weight, old, part in zip(weights, before, parts, strict=True):
        weight.copy_(old - part.view_as(old))
