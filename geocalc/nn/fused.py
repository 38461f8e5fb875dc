"""The edge step without gradients: matrix product, gathers, activation and sum in one pass over blocks of edges.

Same result as `geocalc.nn.message.aggregate` on `edge @ weight.T`; every intermediate lives in one of two buffers that stay in a
core's cache, so the time is that of the matrix product. Edge features may be bfloat16; sums are always in the type of the nodes.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import functional

from geocalc.nn.message import EdgeIndex

BLOCK_BYTES = 512 * 1024  # of one buffer; long enough blocks for an efficient product, two of them fit a 1 MiB cache
_local = threading.local()


def aggregate_fused(
    edge: Tensor,
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
        edge: (n_edges, filters), float32, float64 or bfloat16.
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
    width = weight.shape[0]
    out = torch.zeros_like(value)
    rows = max(64, BLOCK_BYTES // (width * edge.element_size())) if edge.device.type == "cpu" else max(1, edge.shape[0])
    blocks = _blocks(index, edge.shape[0], rows)
    longest = max((edges.stop - edges.start for _, edges in blocks), default=0)
    filters, gathered = _buffers(max(rows, longest) if edge.device.type == "cpu" else longest, width, edge)
    transposed = weight.t()
    center, sent = center.to(edge.dtype), value.to(edge.dtype)
    neighbor = None if neighbor is None else neighbor.to(edge.dtype)
    local = torch.arange(longest, device=edge.device)
    weights = None if envelope is None else envelope.squeeze(1)
    for atoms, edges in blocks:
        n = edges.stop - edges.start
        receivers, senders = index.receivers[edges], index.senders[edges]
        z, g = filters[:n], gathered[:n]
        torch.index_select(center, 0, receivers, out=z)
        if neighbor is not None:
            z.add_(torch.index_select(neighbor, 0, senders, out=g))
        torch.addmm(z, edge[edges], transposed, out=z)
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
