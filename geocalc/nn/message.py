"""The edge step of continuous-filter message passing, with hand-written first and second derivatives.

For every edge from sender j to receiver i,

    message_ij = envelope_ij * phi(edge_ij + center_i + neighbor_j) * value_j,     out_i = sum_j message_ij,

with phi = SiLU or the identity. A Linear layer on concat(edge, h_i, h_j) splits exactly into one product per edge and two per
node, so `edge` is the only input that costs a matrix product per edge. The backward pass is itself a Function with a written
derivative, because training on gradient forces differentiates twice; no intermediate of shape (n_edges, width) is kept but two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class EdgeIndex:
    """Who sends to whom, with what segment sums need; edges are sorted by receiver.

    Attributes:
        senders, receivers: (n_edges,) int64.
        receiver_offsets: (n_atoms,) int64, first edge of each receiver.
        sender_order: (n_edges,) int64, edges sorted by sender.
        sender_offsets: (n_atoms,) int64, first place of each sender in `sender_order`.
    """

    senders: Tensor
    receivers: Tensor
    receiver_offsets: Tensor
    sender_order: Tensor
    sender_offsets: Tensor

    @classmethod
    def build(cls, senders: Tensor, receivers: Tensor, n_atoms: int) -> EdgeIndex:
        """Index edges that are sorted by receiver."""
        atoms = torch.arange(n_atoms, device=senders.device)
        sorted_senders, order = torch.sort(senders, stable=True)
        return cls(
            senders, receivers, torch.searchsorted(receivers, atoms), order, torch.searchsorted(sorted_senders, atoms)
        )

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.receiver_offsets.shape[0]

    def to_receivers(self, values: Tensor) -> Tensor:
        """Sum per-edge rows (n_edges, width) over the edges of each receiver: (n_atoms, width)."""
        return _segment_sum(values, None, self.receiver_offsets)

    def to_senders(self, values: Tensor) -> Tensor:
        """Sum per-edge rows (n_edges, width) over the edges of each sender: (n_atoms, width)."""
        return _segment_sum(values, self.sender_order, self.sender_offsets)


def _segment_sum(values: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    """Sums of consecutive rows (of `values[order]`), one per offset."""
    if values.shape[0] == 0 or offsets.shape[0] == 0:
        return values.new_zeros((offsets.shape[0], values.shape[1]))
    index = torch.arange(values.shape[0], device=values.device) if order is None else order
    return functional.embedding_bag(index, values, offsets, mode="sum")


def aggregate(
    edge: Tensor, center: Tensor, neighbor: Tensor, value: Tensor, envelope: Tensor, index: EdgeIndex, activate: bool
) -> Tensor:
    """Messages summed at their receivers; see the equation on top of this module.

    Args:
        edge: (n_edges, width).
        center, neighbor, value: (n_atoms, width).
        envelope: (n_edges, 1), one where there is none.
        index: the edges.
        activate: phi is SiLU if true, else the identity.
    Returns:
        (n_atoms, width), differentiable twice.
    """
    return _Aggregate.apply(edge, center, neighbor, value, envelope, index, activate)  # type: ignore[no-any-return]


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, edge: Tensor, center: Tensor, neighbor: Tensor, value: Tensor, envelope: Tensor, index: EdgeIndex, activate: bool
    ) -> Tensor:
        z = edge + center.index_select(0, index.receivers)
        z += neighbor.index_select(0, index.senders)
        gate = torch.sigmoid(z) if activate else z.new_ones(())
        ctx.save_for_backward(edge, center, neighbor, value, envelope, z, gate)
        ctx.index, ctx.activate = index, activate
        message = z * gate
        message *= envelope
        message *= value.index_select(0, index.senders)
        return index.to_receivers(message)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return (*_AggregateBackward.apply(grad, *ctx.saved_tensors, ctx.index, ctx.activate), None, None)


class _AggregateBackward(torch.autograd.Function):
    """Gradient of `_Aggregate`, differentiable in the incoming gradient and in every input."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        edge: Tensor,
        center: Tensor,
        neighbor: Tensor,
        value: Tensor,
        envelope: Tensor,
        z: Tensor,
        gate: Tensor,
        index: EdgeIndex,
        activate: bool,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(grad, value, envelope, z, gate)
        ctx.index, ctx.activate = index, activate
        incoming = grad.index_select(0, index.receivers)
        sent = value.index_select(0, index.senders)
        phi = z * gate
        slope = _slope(phi, gate, activate)
        product = incoming * phi
        grad_envelope = (product * sent).sum(1, keepdim=True)
        grad_value = index.to_senders(product.mul_(envelope))
        slope *= incoming
        slope *= sent
        slope *= envelope
        return slope, index.to_receivers(slope), index.to_senders(slope), grad_value, grad_envelope

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        on_edge, on_center, on_neighbor, on_value, on_envelope = cotangents
        grad, value, envelope, z, gate = ctx.saved_tensors
        index: EdgeIndex = ctx.index
        p = grad.index_select(0, index.receivers)
        q = value.index_select(0, index.senders)
        u = on_edge + on_center.index_select(0, index.receivers)
        u += on_neighbor.index_select(0, index.senders)
        w = on_value.index_select(0, index.senders)
        phi = z * gate
        slope = _slope(phi, gate, ctx.activate)
        # scalar function: sum p (q u env phi' + w env phi + t q phi)
        w_phi = w * phi
        u_slope = u * slope
        on_env_terms = u_slope * q
        on_env_terms += w_phi
        grad_envelope = (on_env_terms * p).sum(1, keepdim=True)
        inner = u_slope.mul_(envelope)
        inner += phi.mul_(on_envelope)
        grad_value = index.to_senders(inner * p)
        inner *= q
        inner += w_phi.mul_(envelope)
        grad_grad = index.to_receivers(inner)
        curve = _curvature(z, gate, ctx.activate)
        if isinstance(curve, Tensor):
            curve = curve.mul_(u).mul_(envelope)
            curve += slope * on_envelope
            curve *= q
        else:
            curve = slope * on_envelope * q
        curve += slope.mul_(w).mul_(envelope) if slope.dim() else w * envelope
        curve *= p
        return (
            grad_grad,
            curve,
            index.to_receivers(curve),
            index.to_senders(curve),
            grad_value,
            grad_envelope,
            None,
            None,
            None,
            None,
        )


def _slope(phi: Tensor, gate: Tensor, activate: bool) -> Tensor:
    """phi'(z): gate + phi (1 - gate) for SiLU, a fresh tensor of ones for the identity."""
    return torch.addcmul(gate, phi, 1 - gate) if activate else torch.ones_like(phi)


def _curvature(z: Tensor, gate: Tensor, activate: bool) -> Tensor | None:
    """phi''(z) = s (1 - s) (2 + z (1 - 2 s)) for SiLU, None for the identity."""
    if not activate:
        return None
    complement = 1 - gate
    return torch.mul(gate, complement).mul_((complement - gate).mul_(z).add_(2))
