"""Layers on lists of vectors that turn, and are reflected, along with their input.

A layer mixes channels, never components: `W(v R) = W(v) R` for every 3 x 3 matrix R, and lengths
and scalar products, from which the non-linear parts are made, do not change under orthogonal ones.
Every row is treated alone and alike in training and evaluation.

Features are (n, 3, channels), so that mixing channels is one matrix product. Weights are cast to
the type of the features: a network in float32 still turns double precision geometry exactly.

Source: Deng et al., Vector neurons: a general framework for SO(3)-equivariant networks (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# added to squared lengths: features shorter than a tenth have a length and a direction that stay
# smooth
SOFT = 1e-2


class VectorLinear(nn.Module):
    """Channels mixed: (n, 3, n_in) to (n, 3, n_out); no bias, which would be a direction in space."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) * n_in**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        """Each new channel a sum of the old ones."""
        return functional.linear(values, self.weight.to(values.dtype))


class VectorNorm(nn.Module):
    """Lengths of the channels of each row made comparable: v -> v / |v| (weight |v| / rms + shift),
    rms over the channels.

    Published as batch normalization of lengths, which couples structures and differs between
    training and evaluation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        """(n, 3, width) to (n, 3, width)."""
        square = (values * values).sum(1, keepdim=True) + SOFT
        mean = square.mean(2, keepdim=True)
        return values * (
            self.weight.to(values.dtype) * mean.rsqrt()
            + self.shift.to(values.dtype) * square.rsqrt()
        )


class VectorLayer(nn.Module):
    """Linear, norm, and a gate: of each channel the part against a learned direction is taken away,
    all but a leak.

    With c the component along the direction, c becomes leak c + (1 - leak) c sigmoid(c), as the
    swish in place of the leaky ReLU: forces go through the frame, and a step in its slope would be
    one in them.

    Args:
        n_in, n_out: channels.
        leak: share of the part against the direction that stays.
        shared: one direction for all channels.
    """

    def __init__(self, n_in: int, n_out: int, leak: float = 0.0, shared: bool = False) -> None:
        super().__init__()
        self.leak = leak
        self.feature = VectorLinear(n_in, n_out)
        self.norm = VectorNorm(n_out)
        self.direction = VectorLinear(n_in, 1 if shared else n_out)

    def forward(self, values: Tensor) -> Tensor:
        """(n, 3, n_in) to (n, 3, n_out)."""
        features, direction = self.norm(self.feature(values)), self.direction(values)
        unit = direction * ((direction * direction).sum(1, keepdim=True) + SOFT).rsqrt()
        along = (features * unit).sum(1, keepdim=True)
        return features - (1 - self.leak) * along * torch.sigmoid(-along) * unit
