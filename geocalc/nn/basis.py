"""Radial basis and envelope functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Gasteiger et al. (2020), eq. 8 with p = 5: value, slope and curvature vanish at the cutoff
ENVELOPE_POWER = 5


def polynomial_envelope(length: Tensor, cutoff: float) -> Tensor:
    """Return a smooth step from 1 at zero to 0 at `cutoff` and beyond.

    It has two continuous derivatives.

    Source: Gasteiger, Gross and Guennemann, Directional message passing (2020), eq. 8.
    """
    p = ENVELOPE_POWER
    x = (length / cutoff).clamp(max=1.0)
    power = x**p
    return 1 - power * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x)


def cosine_envelope(length: Tensor, cutoff: float) -> Tensor:
    """Return half a cosine wave from 1 at zero to 0 at `cutoff` and beyond.

    It has one continuous derivative.

    Source: Behler, Atom-centered symmetry functions (2011); the cutoff of published SchNet codes.
    """
    return 0.5 * (torch.cos(length.clamp(max=cutoff) * (math.pi / cutoff)) + 1)


class GaussianBasis(nn.Module):
    """Gaussians with centers evenly spaced on [0, cutoff] and a width equal to the spacing.

    Args:
        n_gaussians: number of Gaussians.
        cutoff: Angstrom.
    Source: Schuett et al., SchNet (2017), as used by FAENet.
    """

    centers: Tensor

    def __init__(self, n_gaussians: int, cutoff: float) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(0.0, cutoff, n_gaussians), persistent=False)
        self.coefficient = -0.5 / (cutoff / (n_gaussians - 1)) ** 2

    def forward(self, length: Tensor) -> Tensor:
        """Expand lengths (n_edges,) in Angstrom into features (n_edges, n_gaussians)."""
        offset = length[:, None] - self.centers
        return torch.exp(self.coefficient * offset * offset)
