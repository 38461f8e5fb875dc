"""Vector-neuron layers: equivariant layers on lists of vectors.

A layer mixes channels, never components: `W(v R) = W(v) R` for every 3 x 3 matrix R. The nonlinear
parts depend on lengths and scalar products, which are invariant under orthogonal matrices. Rows are
independent of each other, and training and evaluation are identical.

Features are (n, 3, channels), so mixing channels is one matrix product. Weights are cast to the
type of the features, so a network in float32 is exactly equivariant for double precision geometry.

Source: Deng et al., Vector neurons: a general framework for SO(3)-equivariant networks (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# added to squared lengths, so that length and direction are smooth for features shorter than 0.1
SOFTENING = 1e-2


class VectorLinear(nn.Module):
    """Linear map of channels: (n, 3, n_in) to (n, 3, n_out).

    There is no bias, which would be a fixed direction in space.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) * n_in**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        """Return linear combinations of the channels."""
        return functional.linear(values, self.weight.to(values.dtype))


class VectorNorm(nn.Module):
    """Normalization of the lengths of vectors.

    v -> v / |v| (weight |v| / rms + shift), with the rms over the channels of a row.

    The published layer is a batch normalization of lengths, which couples structures and differs
    between training and evaluation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        """Normalize features (n, 3, width)."""
        square = (values * values).sum(1, keepdim=True) + SOFTENING
        mean = square.mean(2, keepdim=True)
        return values * (
            self.weight.to(values.dtype) * mean.rsqrt()
            + self.shift.to(values.dtype) * square.rsqrt()
        )


class VectorLayer(nn.Module):
    """Linear map, normalization, and a gate along a learned direction for each channel.

    The component c along the direction becomes leak c + (1 - leak) c sigmoid(c), so negative
    components are suppressed. The published gate is a leaky ReLU; a swish is used instead because
    forces are propagated through the frame, and a discontinuous slope would make them
    discontinuous.

    Args:
        n_in: number of input channels.
        n_out: number of output channels.
        leak: fraction of a negative component that remains.
        shared: use one direction for all channels.
    """

    def __init__(self, n_in: int, n_out: int, leak: float = 0.0, shared: bool = False) -> None:
        super().__init__()
        self.leak = leak
        self.feature = VectorLinear(n_in, n_out)
        self.norm = VectorNorm(n_out)
        self.direction = VectorLinear(n_in, 1 if shared else n_out)

    def forward(self, values: Tensor) -> Tensor:
        """Map features (n, 3, n_in) to (n, 3, n_out)."""
        features, direction = self.norm(self.feature(values)), self.direction(values)
        unit = direction * ((direction * direction).sum(1, keepdim=True) + SOFTENING).rsqrt()
        along = (features * unit).sum(1, keepdim=True)
        return features - (1 - self.leak) * along * torch.sigmoid(-along) * unit
