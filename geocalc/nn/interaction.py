"""The five types of interaction blocks of FAENet.

The linear layer on concat(edge, h_i, h_j) is stored as its three column blocks, which is the same
map with one product per edge and two per node.

Source: Duval et al., FAENet (2023), and its published configurations.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional

from geocalc.errors import InputError
from geocalc.nn.activation import swish
from geocalc.nn.edges import EdgeFeatures, EdgeIndex
from geocalc.nn.fused import aggregate_fused
from geocalc.nn.message import aggregate
from geocalc.nn.norm import GraphNorm


class MessageType(StrEnum):
    """Rule for computing filters from edges."""

    SIMPLE = "simple"
    BASE = "base"
    UPDOWNSCALE = "updownscale"
    UPDOWNSCALE_BASE = "updownscale_base"
    UPDOWN_LOCAL_ENV = "updown_local_env"


class Norm(StrEnum):
    """Normalization of the summed messages (graph, legacy_graph) or of the input (layer)."""

    NONE = "none"
    GRAPH = "graph"
    LEGACY_GRAPH = "legacy_graph"
    LAYER = "layer"


class Interaction(nn.Module):
    """Residual update h -> h + Block(h, e).

    Args:
        width: number of node features H.
        filters: number of edge features F; the simple type needs F = H.
        kind: message type.
        norm: normalization.
        complex_update: add a second linear layer and activation at the end.
        message_scale: factor on the summed messages.
    Raises:
        InputError: the simple type is used with F other than H.
    """

    def __init__(
        self,
        width: int,
        filters: int,
        kind: MessageType,
        norm: Norm,
        complex_update: bool,
        message_scale: float,
    ) -> None:
        super().__init__()
        if kind is MessageType.SIMPLE and filters != width:
            raise InputError(
                "mp_type=simple multiplies edge features by node features, so num_filters must"
                f" equal hidden_channels; got {filters} and {width}"
            )
        scaled = kind not in (MessageType.SIMPLE, MessageType.BASE)
        inner = filters if scaled else width
        self.kind, self.message_scale = kind, message_scale
        self.down = nn.Linear(width, inner) if scaled else None
        self.edge = nn.Linear(filters, inner) if kind is not MessageType.SIMPLE else None
        paired = kind in (MessageType.BASE, MessageType.UPDOWNSCALE_BASE)
        self.center = nn.Linear(width, inner, bias=False) if paired else None
        self.neighbor = nn.Linear(width, inner, bias=False) if paired else None
        self.layer_norm = nn.LayerNorm(width) if norm is Norm.LAYER else None
        graph = norm in (Norm.GRAPH, Norm.LEGACY_GRAPH)
        self.graph_norm = GraphNorm(inner, legacy=norm is Norm.LEGACY_GRAPH) if graph else None
        self.up = nn.Linear(2 * inner if kind is MessageType.UPDOWN_LOCAL_ENV else inner, width)
        self.last = nn.Linear(width, width) if complex_update else None

    def forward(
        self,
        hidden: Tensor,
        edge: EdgeFeatures,
        envelope: Tensor,
        index: EdgeIndex,
        system_idx: Tensor,
        n_systems: int,
    ) -> Tensor:
        """Return the update of `hidden` without the residual, (n_atoms, width).

        Args:
            hidden: (n_atoms, width) node features.
            edge: features of the edges.
            envelope: (n_edges, 1).
            index: the edges.
            system_idx: (n_atoms,) structure of each atom.
            n_systems: number of structures.
        """
        if self.layer_norm is not None:
            hidden = self.layer_norm(hidden)
        value = hidden if self.down is None else swish(self.down(hidden))
        summed = self._messages(hidden, edge, envelope, value, index) * self.message_scale
        if self.graph_norm is not None:
            summed = swish(self.graph_norm(summed, system_idx, n_systems))
        # as published: the local environment is not normalized, and the update not activated
        if self.kind is MessageType.UPDOWN_LOCAL_ENV:
            zero = torch.zeros_like(value)
            features = edge.joined(index).to(value.dtype)
            environment = aggregate(
                features, None, zero, zero, torch.ones_like(value), envelope, index, False
            )
            update = self.up(torch.cat([summed, environment * self.message_scale], dim=1))
        else:
            update = swish(self.up(summed))
        return update if self.last is None else swish(self.last(update))

    def _messages(
        self, hidden: Tensor, edge: EdgeFeatures, envelope: Tensor, value: Tensor, index: EdgeIndex
    ) -> Tensor:
        """Sum the messages at their receivers, (n_atoms, inner).

        Fused without gradients, twice differentiable with gradients.
        """
        activate = self.kind not in (MessageType.SIMPLE, MessageType.UPDOWN_LOCAL_ENV)
        center = None if self.center is None else self.center(hidden)
        neighbor = None if self.neighbor is None else self.neighbor(hidden)
        if self.edge is not None and not torch.is_grad_enabled():
            bias = self.edge.bias if center is None else center + self.edge.bias
            weight = self.edge.weight.to(edge.directed.dtype)
            return aggregate_fused(
                edge, weight, bias.expand_as(value), neighbor, value, envelope, index, activate
            )
        filters, shared = self._filters(edge, index, value.dtype)
        zero = value.new_zeros(value.shape)
        center, neighbor = (
            zero if center is None else center,
            zero if neighbor is None else neighbor,
        )
        return aggregate(filters, shared, center, neighbor, value, envelope, index, activate)

    def _filters(
        self, edge: EdgeFeatures, index: EdgeIndex, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """Return linear terms of edges (n_edges, inner), and of pairs (n_pairs, inner) or None."""
        if self.edge is None:
            return edge.joined(index).to(dtype), None
        if edge.shared is None:
            return self.edge(edge.directed), None
        directed = edge.directed.shape[1]
        weight = self.edge.weight
        return (
            functional.linear(edge.directed, weight[:, :directed], self.edge.bias),
            edge.shared @ weight[:, directed:].t(),
        )
