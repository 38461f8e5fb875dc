"""Normalization of node features within each structure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-5


class GraphNorm(nn.Module):
    """Normalization of every channel over the atoms of a structure.

    x -> weight * (x - mean_scale * mean) / sqrt(var + 1e-5) + bias, with statistics per structure
    and channel, so predictions are independent of the other structures of the batch.

    Args:
        width: number of channels.
        legacy: treat the whole batch as one graph, as the published FAENet code does; only for
            loading its weights.
    Source: Cai et al., GraphNorm (2021), eq. 3.
    """

    def __init__(self, width: int, legacy: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.mean_scale = nn.Parameter(torch.ones(width))
        self.legacy = legacy

    def forward(self, values: Tensor, system_idx: Tensor, n_systems: int) -> Tensor:
        """Normalize features (n_atoms, width).

        Args:
            values: (n_atoms, width).
            system_idx: (n_atoms,) structure of each atom.
            n_systems: number of structures.
        """
        if self.legacy:
            system_idx, n_systems = torch.zeros_like(system_idx), 1
        count = (
            torch.bincount(system_idx, minlength=n_systems).clamp(min=1).to(values.dtype)[:, None]
        )
        centered = values - self.mean_scale * _mean(values, system_idx, count)[system_idx]
        variance = _mean(centered * centered, system_idx, count)
        return self.weight * centered / (variance + EPSILON).sqrt()[system_idx] + self.bias


def _mean(values: Tensor, system_idx: Tensor, count: Tensor) -> Tensor:
    return (
        values.new_zeros((count.shape[0], values.shape[1])).index_add(0, system_idx, values) / count
    )
