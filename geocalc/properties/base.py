"""What every network of properties takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from torch import Tensor, nn

from geocalc.nn.edges import EdgeIndex


class PropertyLevel(StrEnum):
    """What a property belongs to."""

    NODE = "node"
    GRAPH = "graph"


@dataclass(frozen=True, kw_only=True)
class GraphInput:
    """A batch of graphs.

    Attributes:
        types: (n_nodes,) int64, kind of each node, counted from 0.
        graph_idx: (n_nodes,) int64, ascending.
        n_graphs: number of graphs.
        index: the edges, sorted by receiver.
        edge_vec: (n_edges, 3) from sender to receiver, minimum image; None for graphs without
            geometry.
        features: (n_nodes, n_features) numbers known of each node, or None.
    """

    types: Tensor
    graph_idx: Tensor
    n_graphs: int
    index: EdgeIndex
    edge_vec: Tensor | None = None
    features: Tensor | None = None

    def to(self, device: torch.device) -> GraphInput:
        """The same graphs on another device."""
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
    """A module from `GraphInput` to numbers of order one.

    Attributes:
        level: whether it tells of nodes or of graphs.
        n_types: kinds of nodes that it knows.
        n_targets: numbers for each of them.
    """

    level: PropertyLevel
    n_types: int
    n_targets: int

    @abstractmethod
    def forward(self, inputs: GraphInput) -> Tensor:
        """(n_nodes, n_targets), or (n_graphs, n_targets) at level graph."""
