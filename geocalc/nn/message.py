"""Continuous-filter message passing with hand-written first and second derivatives.

For every edge from sender j to receiver i,

    message_ij = envelope_ij * phi(edge_ij + shared_p + center_i + neighbor_j) * value_j,
    out_i = sum_j message_ij,

with phi = SiLU or the identity and p the pair of an edge and its reverse. A linear layer on
concat(edge, h_i, h_j) is the sum of one product per edge, one per pair and two per node, so only
`edge` costs a matrix product per edge. The backward pass is itself a Function with a hand-written
derivative, because training on gradient forces differentiates twice. Only two intermediates of
shape (n_edges, width) are stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geocalc.nn.edges import EdgeIndex

# size of a block of edge rows; measured: shorter blocks add overhead, longer ones gain nothing
BLOCK_BYTES = 512 * 1024


def aggregate(
    edge: Tensor,
    shared: Tensor | None,
    center: Tensor,
    neighbor: Tensor,
    value: Tensor,
    envelope: Tensor,
    index: EdgeIndex,
    activate: bool,
) -> Tensor:
    """Sum messages at their receivers; see the equation of the module.

    Args:
        edge: (n_edges, width).
        shared: (n_pairs, width), or None without features of pairs.
        center: (n_atoms, width).
        neighbor: (n_atoms, width).
        value: (n_atoms, width).
        envelope: (n_edges, 1); ones for no envelope.
        index: the edges.
        activate: phi is SiLU if true, else the identity.
    Returns:
        (n_atoms, width), twice differentiable.
    """
    return _Aggregate.apply(edge, shared, center, neighbor, value, envelope, index, activate)


class _Aggregate(torch.autograd.Function):
    """Forward pass of `aggregate`."""

    @staticmethod
    def forward(
        ctx: Any,
        edge: Tensor,
        shared: Tensor | None,
        center: Tensor,
        neighbor: Tensor,
        value: Tensor,
        envelope: Tensor,
        index: EdgeIndex,
        activate: bool,
    ) -> Tensor:
        z = edge + center.index_select(0, index.receivers)
        z += neighbor.index_select(0, index.senders)
        if shared is not None:
            z += shared.index_select(0, index.pair_of)
        gate = torch.sigmoid(z) if activate else z.new_ones(())
        ctx.save_for_backward(edge, shared, center, neighbor, value, envelope, z, gate)
        ctx.index, ctx.activate = index, activate
        message = value.index_select(0, index.senders).mul_(envelope).mul_(z).mul_(gate)
        return index.to_receivers(message)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return (
            *_AggregateBackward.apply(grad, *ctx.saved_tensors, ctx.index, ctx.activate),
            None,
            None,
        )


class _AggregateBackward(torch.autograd.Function):
    """Gradient of `_Aggregate`, differentiable with respect to all its inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        edge: Tensor,
        shared: Tensor | None,
        center: Tensor,
        neighbor: Tensor,
        value: Tensor,
        envelope: Tensor,
        z: Tensor,
        gate: Tensor,
        index: EdgeIndex,
        activate: bool,
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad, value, envelope, z, gate)
        ctx.index, ctx.activate, ctx.has_shared = index, activate, shared is not None
        incoming = grad.index_select(0, index.receivers)
        sent = value.index_select(0, index.senders)
        phi = z * gate
        slope = _slope(phi, gate, activate).mul_(incoming).mul_(sent).mul_(envelope)
        phi.mul_(incoming)
        grad_envelope = sent.mul_(phi).sum(1, keepdim=True)
        grad_value = index.to_senders(phi.mul_(envelope))
        grad_shared = index.to_pairs(slope) if ctx.has_shared else None
        return (
            slope,
            grad_shared,
            index.to_receivers(slope),
            index.to_senders(slope),
            grad_value,
            grad_envelope,
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        on_edge, on_shared, on_center, on_neighbor, on_value, on_envelope = cotangents
        grad, value, envelope, z, gate = ctx.saved_tensors
        index: EdgeIndex = ctx.index
        sums = torch.zeros((4, *value.shape), dtype=value.dtype, device=value.device)
        grad_edge, grad_envelope = torch.empty_like(z), torch.empty_like(envelope)
        grad_shared = torch.zeros_like(on_shared) if ctx.has_shared else None
        for rows in _blocks(z):
            receivers, senders = index.receivers[rows], index.senders[rows]
            p, q = grad.index_select(0, receivers), value.index_select(0, senders)
            u = (
                on_center.index_select(0, receivers)
                .add_(on_edge[rows])
                .add_(on_neighbor.index_select(0, senders))
            )
            if ctx.has_shared:
                u.add_(on_shared.index_select(0, index.pair_of[rows]))
            w, t, env = on_value.index_select(0, senders), on_envelope[rows], envelope[rows]
            gate_block = gate[rows] if gate.dim() else gate
            phi = z[rows] * gate_block
            slope = _slope(phi, gate_block, ctx.activate)
            # derivative of the scalar sum p (q u env phi' + w env phi + t q phi)
            curve = _curvature(z[rows], gate_block, ctx.activate)
            curve = torch.zeros_like(u) if curve is None else curve.mul_(u).mul_(env)
            curve.addcmul_(slope, t).mul_(q)
            u.mul_(slope)
            slope.mul_(w)
            curve.addcmul_(slope, env).mul_(p)
            w.mul_(phi)
            torch.sum(torch.addcmul(w, u, q).mul_(p), 1, keepdim=True, out=grad_envelope[rows])
            u.mul_(env).addcmul_(phi, t)
            sums[0].index_add_(0, senders, torch.mul(u, p, out=phi))
            sums[1].index_add_(0, receivers, u.mul_(q).addcmul_(w, env))
            sums[2].index_add_(0, receivers, curve)
            sums[3].index_add_(0, senders, curve)
            if grad_shared is not None:
                grad_shared.index_add_(0, index.pair_of[rows], curve)
            grad_edge[rows] = curve
        grad_value, grad_grad, grad_center, grad_neighbor = sums.unbind()
        return (
            grad_grad,
            grad_edge,
            grad_shared,
            grad_center,
            grad_neighbor,
            grad_value,
            grad_envelope,
            None,
            None,
            None,
            None,
        )


def _blocks(values: Tensor) -> list[slice]:
    """Return row ranges such that a dozen blocks fit in the cache of a core; one range on a GPU."""
    n_rows, width = values.shape
    size = (
        max(64, BLOCK_BYTES // (width * values.element_size()))
        if values.device.type == "cpu"
        else max(1, n_rows)
    )
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def _slope(phi: Tensor, gate: Tensor, activate: bool) -> Tensor:
    """Return phi'(z): gate + phi (1 - gate) for SiLU, a new tensor of ones for the identity."""
    return torch.addcmul(gate, phi, 1 - gate) if activate else torch.ones_like(phi)


def _curvature(z: Tensor, gate: Tensor, activate: bool) -> Tensor | None:
    """Return phi''(z) = s (1 - s) (2 + z (1 - 2 s)) for SiLU, None for the identity."""
    if not activate:
        return None
    complement = 1 - gate
    return torch.mul(gate, complement).mul_((complement - gate).mul_(z).add_(2))
