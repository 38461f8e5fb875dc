"""Two-layer update of all edges and its sums at the receivers, with a hand-written derivative.

For every edge from sender j to receiver i,

    updated_ij = relu(bias + W relu(W_e edge_ij + W_f fixed_ij + center_i + neighbor_j)),
    received_i = sum_j updated_ij.

The first layer on [edge, fixed, node i, node j] splits exactly into products per edge and products
per node; nodes are far fewer than edges. Edges are processed in blocks that fit in the cache of a
core, forward and backward. No intermediate value between `edge` and `updated` is stored: the
backward pass recomputes the hidden layer, which costs less than writing and reading it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from geocalc.nn.edges import EdgeIndex

BLOCK_BYTES = 512 * 1024  # of one block of edge rows; half a dozen of them are in use at once


@dataclass(frozen=True)
class UpdatedEdges:
    """Result of an update.

    Attributes:
        edges: (n_edges, width), updated edges.
        received: (n_nodes, width), sums of the updated edges at their receivers.
        fixed: the input `fixed`; pass it to the next update and nowhere else.
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
    """Update all edges by the two layers; see the equation in the docstring of the module.

    Several updates with the same `fixed` pass it from one to the next, so that each adds its
    gradient in place to the sum of the later ones; autograd would allocate memory of that size for
    each update.

    Args:
        edges: (n_edges, columns).
        fixed: (n_edges, columns), or None to omit the term.
        center: (n_nodes, width), product of the receiver with the bias added.
        neighbor: (n_nodes, width), product of the sender, or None to omit the term.
        on_edges: (width, columns of `edges`), weights of the edges.
        on_fixed: (width, columns of `fixed`), weights of `fixed`, or None for the identity.
        second: (width, width), weights of the second layer.
        bias: (width,), bias of the second layer.
        index: senders and receivers of the edges.
    Returns:
        The updated edges, differentiable once.
    """
    return UpdatedEdges(
        *_Update.apply(edges, fixed, center, neighbor, on_edges, on_fixed, second, bias, index)
    )


class _Update(Function):
    @staticmethod
    def forward(
        ctx: Any,
        edges: Tensor,
        fixed: Tensor | None,
        center: Tensor,
        neighbor: Tensor | None,
        on_edges: Tensor,
        on_fixed: Tensor | None,
        second: Tensor,
        bias: Tensor,
        index: EdgeIndex,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        first = _First(edges, fixed, center, neighbor, on_edges, on_fixed, index)
        updated, received = edges.new_empty((edges.shape[0], len(bias))), torch.zeros_like(center)
        blocks = _blocks(updated, index)
        for nodes, rows in blocks:
            torch.addmm(bias, first.hidden(rows), second.t(), out=updated[rows]).relu_()
            received[nodes] = _sums(updated[rows], nodes, rows, index)
        ctx.save_for_backward(edges, fixed, center, neighbor, on_edges, on_fixed, second, updated)
        ctx.index, ctx.blocks = index, blocks
        ctx.set_materialize_grads(False)
        return updated, received, None if fixed is None else fixed.view_as(fixed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        by_updated, by_received, by_fixed = grads
        edges, fixed, center, neighbor, on_edges, on_fixed, second, updated = ctx.saved_tensors
        if by_updated is None and by_received is None:
            return (None, by_fixed, *(None,) * 7)
        index: EdgeIndex = ctx.index
        first = _First(edges, fixed, center, neighbor, on_edges, on_fixed, index)
        by_edges = torch.empty_like(edges) if ctx.needs_input_grad[0] else None
        if fixed is not None and by_fixed is None:
            by_fixed = torch.zeros_like(fixed)
        by_center, by_on_edges, by_second = (
            torch.zeros_like(values) for values in (center, on_edges, second)
        )
        by_neighbor, by_on_fixed = (
            None if values is None else torch.zeros_like(values) for values in (neighbor, on_fixed)
        )
        by_bias = torch.zeros_like(second[0])
        for nodes, rows in ctx.blocks:
            hidden = first.hidden(rows)
            slope = _incoming(by_updated, by_received, rows, index)
            # zero where the ReLU was
            slope = torch.ops.aten.threshold_backward(slope, updated[rows], 0)
            by_bias += slope.sum(0)
            by_second.addmm_(slope.t(), hidden)
            slope = torch.ops.aten.threshold_backward(slope @ second, hidden, 0)
            by_on_edges.addmm_(slope.t(), edges[rows])
            if by_edges is not None:
                torch.mm(slope, on_edges, out=by_edges[rows])
            if by_on_fixed is not None and by_fixed is not None:
                by_on_fixed.addmm_(slope.t(), fixed[rows])
                by_fixed[rows].addmm_(slope, on_fixed)
            elif by_fixed is not None:
                by_fixed[rows] += slope
            by_center[nodes] = _sums(slope, nodes, rows, index)
            if by_neighbor is not None:
                by_neighbor.index_add_(0, index.senders[rows], slope)
        return (
            by_edges,
            by_fixed,
            by_center,
            by_neighbor,
            by_on_edges,
            by_on_fixed,
            by_second,
            by_bias,
            None,
        )


class _First:
    """First layer; the arguments are those of `update_edges`."""

    def __init__(
        self,
        edges: Tensor,
        fixed: Tensor | None,
        center: Tensor,
        neighbor: Tensor | None,
        on_edges: Tensor,
        on_fixed: Tensor | None,
        index: EdgeIndex,
    ) -> None:
        self.edges, self.fixed, self.index = edges, fixed, index
        self.on_edges, self.on_fixed = on_edges.t(), None if on_fixed is None else on_fixed.t()
        self.table, self.fetched = center, index.receivers[:, None]
        if neighbor is not None:  # one sum over two rows of one table fetches what both nodes give
            self.table = torch.cat([center, neighbor])
            self.fetched = torch.stack([index.receivers, index.senders + index.n_atoms], dim=1)

    def hidden(self, rows: slice) -> Tensor:
        """Compute the hidden layer of a slice of edges, (n, width), in new memory."""
        z = functional.embedding_bag(self.fetched[rows], self.table, mode="sum")
        z.addmm_(self.edges[rows], self.on_edges)
        if self.fixed is not None and self.on_fixed is not None:
            z.addmm_(self.fixed[rows], self.on_fixed)
        elif self.fixed is not None:
            z += self.fixed[rows]
        return z.relu_()


def _blocks(values: Tensor, index: EdgeIndex) -> list[tuple[slice, slice]]:
    """Split nodes and their incoming edges into cache-sized blocks; one block on a GPU."""
    n_rows, width = values.shape
    short = values.device.type == "cpu"
    return index.blocks(
        max(64, BLOCK_BYTES // (width * values.element_size())) if short else max(1, n_rows)
    )


def _sums(values: Tensor, nodes: slice, rows: slice, index: EdgeIndex) -> Tensor:
    """Sum the values (n_rows, width) of the edges `rows` at their receivers `nodes`, (n, width)."""
    every = torch.arange(len(values), device=values.device)
    return functional.embedding_bag(
        every, values, index.receiver_offsets[nodes] - rows.start, mode="sum"
    )


def _incoming(
    by_updated: Tensor | None, by_received: Tensor | None, rows: slice, index: EdgeIndex
) -> Tensor:
    """Compute the gradient of the updated edges `rows` from their own and that of their sums.

    At least one of the two must be given.
    """
    parts = [] if by_received is None else [by_received.index_select(0, index.receivers[rows])]
    parts += [] if by_updated is None else [by_updated[rows]]
    return parts[0] if len(parts) == 1 else parts[0].add_(parts[1])
