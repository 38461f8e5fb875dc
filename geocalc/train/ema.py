"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """Bias-corrected average of a module's parameters: a_t = d a_{t-1} + (1 - d) w_t, divided by 1 - d^t when read."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.n_updates = decay, 0
        self.values = {name: torch.zeros_like(p) for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the present weights."""
        self.n_updates += 1
        ours: list[Tensor] = list(self.values.values())
        theirs: list[Tensor] = [p for _, p in module.named_parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - self.decay)

    def weights(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        correction = 1 - self.decay**self.n_updates
        return {name: value / correction for name, value in self.values.items()}

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self.values = {name: value.to(device) for name, value in self.values.items()}
