"""Message passing without gradients, in one pass over blocks of edges.

Product, gather, activation and sum are computed block by block.

The result equals that of `geocalc.nn.message.aggregate` on `edge @ weight.T`. Products of features
shared by an edge and its reverse are computed once per pair. The terms of atoms and pairs are
stored in one table, so one sum over three of its rows gathers all of them for an edge. Blocks fit
in the cache of a core, so the time is close to that of the matrix products. Edge features may be
bfloat16; sums over neighbors are always computed in the type of the nodes.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import functional

from geocalc.nn.edges import EdgeFeatures, EdgeIndex

# size of one buffer; long blocks make the product efficient, and this size was measured to fit the
# third-level cache
BLOCK_BYTES = 2048 * 1024
_local = threading.local()


def aggregate_fused(
    edge: EdgeFeatures,
    weight: Tensor,
    center: Tensor,
    neighbor: Tensor | None,
    value: Tensor,
    envelope: Tensor | None,
    index: EdgeIndex,
    activate: bool,
) -> Tensor:
    """Sum messages at their receivers, without autograd.

    Args:
        edge: features of the edges, float32, float64 or bfloat16.
        weight: (width, filters), of the same type.
        center: (n_atoms, width), linear term of the receiver, including the bias.
        neighbor: (n_atoms, width), linear term of the sender, or None.
        value: (n_atoms, width).
        envelope: (n_edges, 1), or None for one.
        index: the edges.
        activate: apply SiLU if true, else the identity.
    Returns:
        (n_atoms, width) in the type of `value`.
    """
    directed, out = edge.directed, torch.zeros_like(value)
    n_edges, width = directed.shape[0], weight.shape[0]
    on_cpu = directed.device.type == "cpu"
    rows = max(64, BLOCK_BYTES // (width * directed.element_size())) if on_cpu else max(1, n_edges)
    blocks = index.blocks(rows)
    longest = max((edges.stop - edges.start for _, edges in blocks), default=0)
    n_filters = directed.shape[1]
    on_directed, on_shared = weight[:, :n_filters].t(), weight[:, n_filters:].t()
    table, table_rows = _table(center, neighbor, edge.shared, on_shared, index)
    gathered = _buffer("gathered", max(rows, longest) if on_cpu else longest, width, directed)
    sent = value.to(directed.dtype)
    local = torch.arange(longest, device=directed.device)
    starts, per_edge = local * table_rows.shape[1], table_rows.shape[1]
    weights = None if envelope is None else envelope.squeeze(1)
    for atoms, edges in blocks:
        n = edges.stop - edges.start
        z = functional.embedding_bag(
            table_rows[edges].reshape(n * per_edge), table, starts[:n], mode="sum"
        )
        torch.addmm(z, directed[edges], on_directed, out=z)
        if activate:
            functional.silu(z, inplace=True)
        z.mul_(torch.index_select(sent, 0, index.senders[edges], out=gathered[:n]))
        # the envelope is applied as the weight of the sum over the edges of each receiver
        out[atoms] = functional.embedding_bag(
            local[:n],
            z.to(out.dtype),
            index.receiver_offsets[atoms] - edges.start,
            mode="sum",
            per_sample_weights=None if weights is None else weights[edges],
        )
    return out


def _table(
    center: Tensor, neighbor: Tensor | None, shared: Tensor | None, weight: Tensor, index: EdgeIndex
) -> tuple[Tensor, Tensor]:
    """Return the terms that edges add up, and the rows of each edge.

    Returns:
        Terms of receivers, senders and pairs (n_rows, width), and row indices (n_edges, 1 to 3).
    """
    parts, ends = (
        [center] if neighbor is None else [center, neighbor],
        [index.receivers, index.senders],
    )
    n_rows = len(parts) * index.n_atoms
    n_pairs = 0 if shared is None else shared.shape[0]
    table = _buffer("table", n_rows + n_pairs, weight.shape[1], weight)
    for k, part in enumerate(parts):
        table[k * index.n_atoms : (k + 1) * index.n_atoms] = part
    rows = [atoms + k * index.n_atoms for k, atoms in enumerate(ends[: len(parts)])]
    if shared is not None:
        torch.mm(shared, weight, out=table[n_rows:])
        rows.append(index.pair_of + n_rows)
    return table, torch.stack(rows, dim=1)


def _buffer(name: str, rows: int, width: int, like: Tensor) -> Tensor:
    """Return a buffer (rows, width) that is reused by this thread.

    Writing to newly allocated memory takes longer than the computation.
    """
    buffers: dict[str, Tensor] = _local.__dict__.setdefault("buffers", {})
    buffer = buffers.get(name)
    if (
        buffer is None
        or buffer.shape[0] < rows
        or (buffer.shape[1], buffer.dtype, buffer.device) != (width, like.dtype, like.device)
    ):
        buffer = buffers[name] = torch.empty((rows, width), dtype=like.dtype, device=like.device)
    return buffer[:rows]
