"""Interface of property networks: input, output and the level of a property."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from torch import Tensor, nn

from geocalc.nn.edges import EdgeIndex


class PropertyLevel(StrEnum):
    """Level of a property: one value per node or one per graph."""

    NODE = "node"
    GRAPH = "graph"


@dataclass(frozen=True, kw_only=True)
class GraphInput:
    """Batch of graphs.

    Attributes:
        types: (n_nodes,) int64, type of each node, counted from 0.
        graph_idx: (n_nodes,) int64, ascending, index of each node's graph.
        n_graphs: number of graphs.
        index: edges, sorted by receiver.
        edge_vec: (n_edges, 3) from sender to receiver, minimum image; None for graphs without
            geometry.
        features: (n_nodes, n_features) additional node features, or None.
    """

    types: Tensor
    graph_idx: Tensor
    n_graphs: int
    index: EdgeIndex
    edge_vec: Tensor | None = None
    features: Tensor | None = None

    def to(self, device: torch.device) -> GraphInput:
        """Copy the graphs to another device."""
        index = EdgeIndex(
            **{f.name: getattr(self.index, f.name).to(device) for f in fields(self.index)}
        )
        return GraphInput(
            types=self.types.to(device),
            graph_idx=self.graph_idx.to(device),
            n_graphs=self.n_graphs,
            index=index,
            edge_vec=None if self.edge_vec is None else self.edge_vec.to(device),
            features=None if self.features is None else self.features.to(device),
        )


class PropertyNetwork(nn.Module, ABC):
    """Network that maps a `GraphInput` to normalized properties of order one.

    Attributes:
        level: whether the properties belong to nodes or to graphs.
        n_types: number of node types.
        n_targets: number of properties of each node or graph.
    """

    level: PropertyLevel
    n_types: int
    n_targets: int

    @abstractmethod
    def forward(self, inputs: GraphInput) -> Tensor:
        """Predict properties, (n_nodes, n_targets), or (n_graphs, n_targets) at graph level."""
