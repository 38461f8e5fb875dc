"""The edge step without gradients: matrix product, gathers, activation and sum in one pass over
blocks of edges.

Same result as `geocalc.nn.message.aggregate` on `edge @ weight.T`; the features that an edge shares
with its reverse are multiplied once for both. What an edge takes from its two atoms and from its
pair stands in one table, and one sum over three rows of it fetches all. Blocks stay in a core's
cache, so the time is nearly that of the matrix products. Edge features may be bfloat16; sums over
neighbors are always in the type of the nodes.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import functional

from geocalc.nn.edges import EdgeFeatures, EdgeIndex

# of one buffer; measured: longer blocks make the product efficient and still fit a third-level
# cache
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
    directed, out = edge.directed, torch.zeros_like(value)
    n_edges, width = directed.shape[0], weight.shape[0]
    on_cpu = directed.device.type == "cpu"
    rows = max(64, BLOCK_BYTES // (width * directed.element_size())) if on_cpu else max(1, n_edges)
    blocks = index.blocks(rows)
    longest = max((edges.stop - edges.start for _, edges in blocks), default=0)
    n_filters = directed.shape[1]
    on_directed, on_shared = weight[:, :n_filters].t(), weight[:, n_filters:].t()
    table, fetched = _table(center, neighbor, edge.shared, on_shared, index)
    gathered = _buffer("gathered", max(rows, longest) if on_cpu else longest, width, directed)
    sent = value.to(directed.dtype)
    local = torch.arange(longest, device=directed.device)
    starts, per_edge = local * fetched.shape[1], fetched.shape[1]
    weights = None if envelope is None else envelope.squeeze(1)
    for atoms, edges in blocks:
        n = edges.stop - edges.start
        z = functional.embedding_bag(
            fetched[edges].reshape(n * per_edge), table, starts[:n], mode="sum"
        )
        torch.addmm(z, directed[edges], on_directed, out=z)
        if activate:
            functional.silu(z, inplace=True)
        z.mul_(torch.index_select(sent, 0, index.senders[edges], out=gathered[:n]))
        # the sum over each receiver's edges applies the envelope on the way
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
    """Rows that edges add up, (n_rows, width): of centers, of neighbors, of pairs; and which an
    edge takes, (n_edges, 1 to 3).
    """
    parts, taken = (
        [center] if neighbor is None else [center, neighbor],
        [index.receivers, index.senders],
    )
    n_rows = len(parts) * index.n_atoms
    n_pairs = 0 if shared is None else shared.shape[0]
    table = _buffer("table", n_rows + n_pairs, weight.shape[1], weight)
    for k, part in enumerate(parts):
        table[k * index.n_atoms : (k + 1) * index.n_atoms] = part
    fetched = [rows + k * index.n_atoms for k, rows in enumerate(taken[: len(parts)])]
    if shared is not None:
        torch.mm(shared, weight, out=table[n_rows:])
        fetched.append(index.pair_of + n_rows)
    return table, torch.stack(fetched, dim=1)


def _buffer(name: str, rows: int, width: int, like: Tensor) -> Tensor:
    """A buffer (rows, width) that this thread keeps: fresh memory costs more to touch for the first
    time than to compute in.
    """
    buffers: dict[str, Tensor] = _local.__dict__.setdefault("buffers", {})
    kept = buffers.get(name)
    if (
        kept is None
        or kept.shape[0] < rows
        or (kept.shape[1], kept.dtype, kept.device) != (width, like.dtype, like.device)
    ):
        kept = buffers[name] = torch.empty((rows, width), dtype=like.dtype, device=like.device)
    return kept[:rows]
