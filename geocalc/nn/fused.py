"""The edge step without gradients: matrix product, gathers, activation and sum in one pass over blocks of edges.

Same result as `geocalc.nn.message.aggregate` on `edge @ weight.T`; every intermediate lives in one of two buffers that stay in a
core's cache, so the time is that of the matrix product. Edge features may be bfloat16; sums are always in the type of the nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from geocalc.nn.message import EdgeIndex

BLOCK_BYTES = 512 * 1024  # of one buffer; long enough blocks for an efficient product, two of them fit a 1 MiB cache


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
    n_edges, width = edge.shape[0], weight.shape[0]
    out = torch.zeros_like(value)
    rows = max(64, BLOCK_BYTES // (width * edge.element_size())) if edge.device.type == "cpu" else max(1, n_edges)
    transposed = weight.t()
    center, sent = center.to(edge.dtype), value.to(edge.dtype)
    neighbor = None if neighbor is None else neighbor.to(edge.dtype)
    filters = torch.empty((min(rows, n_edges), width), dtype=edge.dtype, device=edge.device)
    gathered = torch.empty_like(filters)
    for start in range(0, n_edges, rows):
        part = slice(start, min(start + rows, n_edges))
        receivers, senders = index.receivers[part], index.senders[part]
        z, g = filters[: len(receivers)], gathered[: len(receivers)]
        torch.mm(edge[part], transposed, out=z)
        z.add_(torch.index_select(center, 0, receivers, out=g))
        if neighbor is not None:
            z.add_(torch.index_select(neighbor, 0, senders, out=g))
        if activate:
            functional.silu(z, inplace=True)
        z.mul_(torch.index_select(sent, 0, senders, out=g))
        if envelope is not None:
            z.mul_(envelope[part])
        out.index_add_(0, receivers, z.to(out.dtype))
    return out
