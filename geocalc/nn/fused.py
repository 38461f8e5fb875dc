"""The edge step without gradients: matrix product, gathers, activation and sum in one pass over blocks of edges.

Same result as `geocalc.nn.message.aggregate` on `edge @ weight.T`. The radial half of the features, which an edge shares with its
reverse and with every other edge of that very length, is multiplied once per length. Every intermediate lives in one of two
buffers that stay in a core's cache, so the time is that of the matrix products. Edge features may be bfloat16; sums are always in
the type of the nodes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from geocalc.nn.message import EdgeIndex

BLOCK_BYTES = 2048 * 1024  # of one buffer; measured: longer blocks make the product efficient and still fit a third-level cache
_local = threading.local()


@dataclass(frozen=True)
class SplitEdges:
    """Edge features in two parts, the second held once per distinct length.

    Attributes:
        vector: (n_edges, filters - radial filters), depends on the edge vector.
        radial: (n_lengths, radial filters), depends on its length alone.
        length_of: (n_edges,) int64, row of `radial` of each edge.
    """

    vector: Tensor
    radial: Tensor
    length_of: Tensor

    def joined(self) -> Tensor:
        """The features as one tensor, (n_edges, filters)."""
        return torch.cat([self.vector, self.radial.index_select(0, self.length_of)], dim=1)

    def to(self, dtype: torch.dtype) -> SplitEdges:
        """The same features in another floating type."""
        return SplitEdges(self.vector.to(dtype), self.radial.to(dtype), self.length_of)


def aggregate_fused(
    edge: SplitEdges,
    weight: Tensor,
    center: Tensor,
    neighbor: Tensor | None,
    value: Tensor,
    envelope: Tensor | None,
    index: EdgeIndex,
    activate: bool,
) -> Tensor:
    """Messages summed at their receivers, without autograd.

    Args:
        edge: features of the edges, float32, float64 or bfloat16.
        weight: (width, filters), of the same type.
        center: (n_atoms, width), the receiver's product with the bias added.
        neighbor: (n_atoms, width), the sender's product, or None.
        value: (n_atoms, width).
        envelope: (n_edges, 1), or None for one.
        index: the edges.
        activate: SiLU if true, else the identity.
    Returns:
        (n_atoms, width) in the type of `value`.
    """
    width, vector = weight.shape[0], edge.vector
    out = torch.zeros_like(value)
    on_cpu = vector.device.type == "cpu"
    rows = max(64, BLOCK_BYTES // (width * vector.element_size())) if on_cpu else max(1, vector.shape[0])
    blocks = _blocks(index, vector.shape[0], rows)
    longest = max((edges.stop - edges.start for _, edges in blocks), default=0)
    filters, gathered = _buffers(max(rows, longest) if on_cpu else longest, width, vector)
    on_vector, on_radial = weight[:, : vector.shape[1]].t(), weight[:, vector.shape[1] :].t()
    radial = edge.radial @ on_radial
    center, sent = center.to(vector.dtype), value.to(vector.dtype)
    neighbor = None if neighbor is None else neighbor.to(vector.dtype)
    local = torch.arange(longest, device=vector.device)
    weights = None if envelope is None else envelope.squeeze(1)
    for atoms, edges in blocks:
        n = edges.stop - edges.start
        receivers, senders = index.receivers[edges], index.senders[edges]
        z, g = filters[:n], gathered[:n]
        torch.index_select(center, 0, receivers, out=z)
        z.add_(torch.index_select(radial, 0, edge.length_of[edges], out=g))
        if neighbor is not None:
            z.add_(torch.index_select(neighbor, 0, senders, out=g))
        torch.addmm(z, vector[edges], on_vector, out=z)
        if activate:
            functional.silu(z, inplace=True)
        z.mul_(torch.index_select(sent, 0, senders, out=g))
        # the sum over each receiver's edges applies the envelope on the way
        out[atoms] = functional.embedding_bag(
            local[:n],
            z.to(out.dtype),
            index.receiver_offsets[atoms] - edges.start,
            mode="sum",
            per_sample_weights=None if weights is None else weights[edges],
        )
    return out


def _buffers(rows: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Two buffers (rows, width) that this thread keeps: fresh memory costs more to touch for the first time than to compute in."""
    key = (rows, width, like.dtype, like.device)
    if getattr(_local, "key", None) != key:
        _local.key, _local.buffers = (
            key,
            tuple(torch.empty((rows, width), dtype=like.dtype, device=like.device) for _ in range(2)),
        )
    return _local.buffers


def _blocks(index: EdgeIndex, n_edges: int, rows: int) -> list[tuple[slice, slice]]:
    """Runs of whole receivers with at most `rows` edges (or one receiver with more), and their edges; empty runs are left out."""
    ends = [*index.receiver_offsets.tolist()[1:], n_edges] if index.n_atoms else []
    blocks, first_atom, first_edge, last_end = [], 0, 0, 0
    for atom, end in enumerate(ends):
        if end - first_edge > rows and last_end > first_edge:
            blocks.append((slice(first_atom, atom), slice(first_edge, last_end)))
            first_atom, first_edge = atom, last_end
        last_end = end
    if last_end > first_edge:
        blocks.append((slice(first_atom, len(ends)), slice(first_edge, last_end)))
    return blocks
