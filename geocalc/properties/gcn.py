"""Graph convolutional network: neighbor features averaged with fixed weights.

Edges have no features. A layer computes

    h <- D^-1/2 (A + 1) D^-1/2 h W + b, D the number of incoming edges including a self-loop.

Source: Kipf and Welling, ICLR 2017. The layer is that of torch-geometric.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn

from geocalc.core.settings import Settings
from geocalc.properties.base import GraphInput, PropertyLevel, PropertyNetwork
from geocalc.properties.node_features import mean_per_graph, node_features


class GCNSettings(Settings):
    """Settings of `GCN`; the defaults are the small network of a report on ZINC molecules.

    The large network has `conv_channels: [128, 128, 64, 64, 64]` and `mlp_channels: [64, 64, 32,
    16]`. As a baseline for node properties, use `level: node`; nodes are then not averaged.
    """

    level: PropertyLevel = PropertyLevel.GRAPH
    n_types: int = Field(21, ge=1)
    n_features: int = Field(0, ge=0, description="numbers known of each node beside its type")
    n_targets: int = Field(1, ge=1)
    conv_channels: tuple[int, ...] = Field(
        (16, 16), min_length=1, description="columns after each convolution"
    )
    mlp_channels: tuple[int, ...] = Field(
        (16, 16), description="hidden layers after the convolutions"
    )


class GCN(PropertyNetwork):
    """Graph convolutional network; see `GCNSettings`.

    ReLU is applied between convolutions, not after the last; edge vectors are not used.
    """

    def __init__(self, settings: GCNSettings) -> None:
        # as late as this because importing geocalc.properties must not cost the import of
        # torch-geometric
        from torch_geometric.nn import GCNConv

        super().__init__()
        s = settings
        self.settings = s
        self.level, self.n_types, self.n_targets = s.level, s.n_types, s.n_targets
        widths = (s.n_types + s.n_features, *s.conv_channels)
        self.convolutions = nn.ModuleList(
            GCNConv(a, b, normalize=False) for a, b in pairwise(widths)
        )
        widths = (s.conv_channels[-1], *s.mlp_channels)
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.mlp = nn.Sequential(*hidden, nn.Linear(widths[-1], s.n_targets))

    def forward(self, inputs: GraphInput) -> Tensor:
        """Predict properties, (n_nodes, n_targets), or (n_graphs, n_targets) at graph level.

        At graph level nodes are averaged before the MLP.

        Raises:
            InputError: node types or features do not match the settings.
        """
        from torch_geometric.nn.conv.gcn_conv import gcn_norm

        s, index = self.settings, inputs.index
        hidden = node_features(
            inputs, s.n_types, s.n_features, one_hot=True, dtype=next(self.mlp.parameters()).dtype
        )
        edges = torch.stack([index.senders, index.receivers])
        # once for all layers
        edges, weights = gcn_norm(edges, num_nodes=index.n_atoms, dtype=hidden.dtype)
        for k, convolution in enumerate(self.convolutions):
            hidden = convolution(torch.relu(hidden) if k else hidden, edges, weights)
        return self.mlp(
            mean_per_graph(hidden, inputs) if self.level is PropertyLevel.GRAPH else hidden
        )
