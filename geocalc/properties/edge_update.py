"""One update of the edges and the sums of the new edges at their receivers, as graph networks do it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from geocalc.nn.edges import EdgeIndex


@dataclass(frozen=True)
class UpdatedEdges:
    """What an update gives.

    Attributes:
        edges: (n_edges, width). received: (n_nodes, width), their sums at the receivers.
        fixed: what was handed in as `fixed`, for the next update: gradients of all updates meet there.
    """

    edges: Tensor
    received: Tensor
    fixed: Tensor | None


def update_edges(
    edges: Tensor,
    fixed: Tensor | None,
    center: Tensor,
    neighbor: Tensor | None,
    on_edges: Tensor,
    on_fixed: Tensor | None,
    second: Tensor,
    bias: Tensor,
    index: EdgeIndex,
) -> UpdatedEdges:
    """Two layers with ReLU for every edge."""
    z = functional.linear(edges, on_edges) + center.index_select(0, index.receivers)
    if neighbor is not None:
        z = z + neighbor.index_select(0, index.senders)
    if fixed is not None:
        z = z + (fixed if on_fixed is None else functional.linear(fixed, on_fixed))
    updated = functional.relu(functional.linear(functional.relu(z), second, bias))
    return UpdatedEdges(updated, index.to_receivers(updated), fixed)
