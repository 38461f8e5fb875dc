"""A network with what turns its numbers into properties."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geocalc.properties.base import GraphInput, PropertyNetwork
from geocalc.properties.samples import GraphSample


class PropertyModel(nn.Module):
    """Properties in their own units: mean + spread * network.

    Args:
        network: gives numbers of order one.
        mean, spread: (n_targets,) in the unit of each property.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, network: PropertyNetwork, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, inputs: GraphInput) -> Tensor:
        """(rows, n_targets): rows are nodes or graphs, as the network has them."""
        return self.mean + self.spread * self.network(inputs)


def spread_of(samples: Sequence[GraphSample]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the targets that count, (n_targets,) each, one where a target
    does not vary.
    """
    counted = torch.cat([sample.targets[sample.counted] for sample in samples]).double()
    spread = counted.std(0, unbiased=False)
    return counted.mean(0).float(), torch.where(spread > 0, spread, 1.0).float()
