"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WARMUP = 9  # updates; the usual choice, by which the average spans a ninth of the past


class WeightAverage:
    """Moving average of the parameters of a module: a_n = d_n a_{n-1} + (1 - d_n) w_n.

    d_n is the decay, limited to (n - 1) / (n + 8): the average starts with the first weights and
    spans about the last ninth of the updates until that exceeds the time constant of the decay.
    Early weights therefore do not bias the average of a short run.

    Args:
        module: module with the parameters.
        decay: largest decay, 0 to 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.n_updates = decay, 0
        self.values = {name: torch.zeros_like(p) for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the average with the current weights."""
        decay = min(self.decay, self.n_updates / (self.n_updates + WARMUP))
        self.n_updates += 1
        ours: list[Tensor] = list(self.values.values())
        theirs: list[Tensor] = [p for _, p in module.named_parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged parameters by name."""
        return dict(self.values)

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self.values = {name: value.to(device) for name, value in self.values.items()}
