"""Graph network of Bapst et al.: predicts particle dynamics from the structure of a glass.

Nodes v and edges e are encoded to v0 and e0; each of the steps computes

    e_ij <- MLP_e([e_ij, e0_ij, v_i, v0_i, v_j, v0_j]),    i the receiver, j the sender,
    v_i  <- MLP_v([v_i, v0_i, sum_j e_ij]),

with the same weights in all steps, and a third MLP decodes the nodes. Each of these choices can be
changed in the settings.

Sources: Bapst et al., Nature Physics 16, 448 (2020); Battaglia et al., arXiv:1806.01261 (2018).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.nn.edges import EdgeIndex
from geocalc.properties.base import GraphInput, PropertyLevel, PropertyNetwork
from geocalc.properties.edge_update import UpdatedEdges, update_edges
from geocalc.properties.node_features import mean_per_graph, node_features

TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal that is cut at -2 and 2


class Initialisation(StrEnum):
    """Initialization of the weights."""

    VARIANCE_SCALING = "variance-scaling"
    TORCH = "torch"


class GraphNetworkSettings(Settings):
    """Settings of `GraphNetwork`; the defaults are those of Bapst et al., with self-loops.

    The network with 358,849 weights and seven separate layers has `shared: false`, `edges_first:
    false`, `one_hot: true`, `decoder_layers: 1` and `initialization: torch`. The edges after its
    last layer are not used; their weights are counted but not computed.
    """

    level: PropertyLevel = PropertyLevel.NODE
    n_types: int = Field(2, ge=1)
    n_features: int = Field(0, ge=0, description="numbers known of each node beside its type")
    n_targets: int = Field(1, ge=1)
    one_hot: bool = Field(
        False, description="types as one column each; as published, the type is one number"
    )
    hidden_channels: int = Field(64, ge=1)
    num_layers: int = Field(7, ge=1, description="steps of the core")
    shared: bool = Field(True, description="the same weights in every step")
    edges_first: bool = Field(
        True,
        description=(
            "nodes receive the edges just updated; otherwise those before the update, current and"
            " encoded"
        ),
    )
    outgoing: bool = Field(
        False, description="nodes also receive the sum over the edges that leave them"
    )
    decoder_layers: int = Field(2, ge=0, description="hidden layers of the decoder")
    initialization: Initialisation = Initialisation.VARIANCE_SCALING


class GraphNetwork(PropertyNetwork):
    """Graph network; see `GraphNetworkSettings`."""

    def __init__(self, settings: GraphNetworkSettings) -> None:
        super().__init__()
        s, width = settings, settings.hidden_channels
        self.settings = s
        self.level, self.n_types, self.n_targets = s.level, s.n_types, s.n_targets
        self.encode_nodes = TwoLayers((s.n_types if s.one_hot else 1) + s.n_features, width)
        self.encode_edges = TwoLayers(3, width)
        self.steps = nn.ModuleList(
            GraphNetworkStep(s) for _ in range(1 if s.shared else s.num_layers)
        )
        hidden = [
            layer for _ in range(s.decoder_layers) for layer in (nn.Linear(width, width), nn.ReLU())
        ]
        self.decode = nn.Sequential(*hidden, nn.Linear(width, s.n_targets))
        if s.initialization is Initialisation.VARIANCE_SCALING:
            scale_variance(self)

    def forward(self, inputs: GraphInput) -> Tensor:
        """Predict properties, (n_nodes, n_targets), or (n_graphs, n_targets) at graph level.

        At graph level nodes are averaged before the decoder.

        Raises:
            InputError: the edges have no vectors, or node types or features do not match the
                settings.
        """
        s, index = self.settings, inputs.index
        dtype = self.encode_nodes.first.weight.dtype
        if inputs.edge_vec is None:
            raise InputError(
                "the graphs have no edge vectors, which a graph network needs: give edge_vec, or"
                " choose the network gcn"
            )
        first = self.encode_nodes(node_features(inputs, s.n_types, s.n_features, s.one_hot, dtype))
        nodes = self._core(first, self._encoded_edges(inputs.edge_vec.to(dtype), index), index)
        return self.decode(
            mean_per_graph(nodes, inputs) if self.level is PropertyLevel.GRAPH else nodes
        )

    def _encoded_edges(self, edge_vec: Tensor, index: EdgeIndex) -> UpdatedEdges:
        mlp = self.encode_edges
        bias = mlp.first.bias.expand(index.n_atoms, -1)
        return update_edges(
            edge_vec,
            None,
            bias,
            None,
            mlp.first.weight,
            None,
            mlp.last.weight,
            mlp.last.bias,
            index,
        )

    def _core(self, first: Tensor, encoded: UpdatedEdges, index: EdgeIndex) -> Tensor:
        """Run all steps.

        Args:
            first: (n_nodes, width), encoded nodes.
            encoded: encoded edges.
            index: senders and receivers of the edges.
        Returns:
            (n_nodes, width), nodes after the last step.
        """
        s, nodes, edges = self.settings, first, encoded.edges
        at_nodes = before = self._at_nodes(encoded, index)
        fixed: Tensor | None = self._step(0).product(edges) if s.shared else edges
        for k in range(s.num_layers):
            step = self._step(k)
            nodes_twice = torch.cat([nodes, first], dim=1)
            if s.edges_first or k < s.num_layers - 1:
                updated = step.update(edges, fixed, nodes_twice, index)
                edges, fixed = updated.edges, updated.fixed
                now = self._at_nodes(updated, index)
            else:
                now = at_nodes
            messages = now if s.edges_first else torch.cat([at_nodes, before], dim=1)
            nodes = step.node(torch.cat([nodes_twice, messages], dim=1))
            at_nodes = now
        return nodes

    def _step(self, k: int) -> GraphNetworkStep:
        return cast(GraphNetworkStep, self.steps[0 if self.settings.shared else k])

    def _at_nodes(self, updated: UpdatedEdges, index: EdgeIndex) -> Tensor:
        """Concatenate the sums over incoming and, if requested, outgoing edges.

        Returns:
            (n_nodes, width), or (n_nodes, 2 width) with outgoing edges.
        """
        if not self.settings.outgoing:
            return updated.received
        return torch.cat([updated.received, index.to_senders(updated.edges)], dim=1)


class TwoLayers(nn.Module):
    """MLP of two layers: Linear, ReLU, Linear, ReLU.

    Args:
        incoming: number of input columns.
        width: number of hidden and output columns.
    """

    def __init__(self, incoming: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(incoming, width)
        self.last = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        """Map (n, incoming) to (n, width)."""
        return functional.relu(self.last(functional.relu(self.first(values))))


class GraphNetworkStep(nn.Module):
    """Edge and node MLPs of one message-passing step.

    The input columns of the edge MLP are [e, e0, v_i, v0_i, v_j, v0_j].
    """

    def __init__(self, settings: GraphNetworkSettings) -> None:
        super().__init__()
        width = settings.hidden_channels
        sums = (1 if settings.edges_first else 2) * (2 if settings.outgoing else 1)
        self.width, self.shared = width, settings.shared
        self.edge = TwoLayers(6 * width, width)
        self.node = TwoLayers((2 + sums) * width, width)

    def product(self, encoded: Tensor) -> Tensor:
        """Multiply encoded edges by their columns of the first layer, (n_edges, width).

        The product is the same in all steps that share these weights.
        """
        return functional.linear(encoded, self.edge.first.weight[:, self.width : 2 * self.width])

    def update(
        self, edges: Tensor, fixed: Tensor | None, nodes: Tensor, index: EdgeIndex
    ) -> UpdatedEdges:
        """Update the edges.

        Args:
            edges: (n_edges, width), current edges.
            fixed: in the first step `product` of the encoded edges if all steps share their
                weights, otherwise the encoded edges; in later steps `fixed` of the previous update.
            nodes: (n_nodes, 2 width), current and encoded nodes.
            index: senders and receivers of the edges.
        """
        mlp, width = self.edge, self.width
        on_edges, on_fixed, on_center, on_neighbor = mlp.first.weight.split(
            [width, width, 2 * width, 2 * width], dim=1
        )
        center = functional.linear(nodes, on_center, mlp.first.bias)
        neighbor = functional.linear(nodes, on_neighbor)
        weight = None if self.shared else on_fixed
        return update_edges(
            edges, fixed, center, neighbor, on_edges, weight, mlp.last.weight, mlp.last.bias, index
        )


def scale_variance(network: nn.Module) -> None:
    """Initialize all Linear layers with truncated normal values.

    Weights have the variance 1 / columns, biases 0.1 / rows, cut at two standard deviations, as the
    published network did with TensorFlow's `variance_scaling_initializer` and the scales 1 and 0.1.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            for values, variance in (
                (module.weight, 1 / module.in_features),
                (module.bias, 0.1 / module.out_features),
            ):
                spread = math.sqrt(variance) / TRUNCATED
                nn.init.trunc_normal_(values, std=spread, a=-2 * spread, b=2 * spread)
