"""Continuous-filter convolution: features of neighbors times filters of the edges, summed.

    out_i = sum over edges j -> i of filter_p * value_j,

where p is the pair of an edge and its reverse, which have the same filter. Both derivatives are
sums of the same kind, so two Functions that call each other can be differentiated any number of
times, and no intermediate of shape (n_edges, width) is stored.

Source: Schuett et al., SchNet (2017), sec. 3.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from geocalc.nn.edges import EdgeIndex


def convolve(filters: Tensor, values: Tensor, index: EdgeIndex) -> Tensor:
    """Sum the features of the senders times the filters of the edges at the receivers.

    Args:
        filters: (n_pairs, width).
        values: (n_atoms, width).
        index: the edges.
    Returns:
        (n_atoms, width), differentiable any number of times.
    """
    return _Convolve.apply(filters, values, index, False)


class _Convolve(Function):
    """Forward and backward pass of `convolve`.

    With `reverse` the edges are reversed: features of receivers are summed at senders.
    """

    @staticmethod
    def forward(
        ctx: Any, filters: Tensor, values: Tensor, index: EdgeIndex, reverse: bool
    ) -> Tensor:
        ctx.save_for_backward(filters, values)
        ctx.index, ctx.reverse = index, reverse
        ends = index.receivers if reverse else index.senders
        products = filters.index_select(0, index.pair_of).mul_(values.index_select(0, ends))
        return index.to_senders(products) if reverse else index.to_receivers(products)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        filters, values = ctx.saved_tensors
        at_receivers, at_senders = (values, grad) if ctx.reverse else (grad, values)
        by_filters = (
            _Correlate.apply(at_receivers, at_senders, ctx.index)
            if ctx.needs_input_grad[0]
            else None
        )
        by_values = (
            _Convolve.apply(filters, grad, ctx.index, not ctx.reverse)
            if ctx.needs_input_grad[1]
            else None
        )
        return by_filters, by_values, None, None


class _Correlate(Function):
    """Product of features at receiver and sender, summed over each pair: (n_pairs, width)."""

    @staticmethod
    def forward(ctx: Any, at_receivers: Tensor, at_senders: Tensor, index: EdgeIndex) -> Tensor:
        ctx.save_for_backward(at_receivers, at_senders)
        ctx.index = index
        products = at_receivers.index_select(0, index.receivers).mul_(
            at_senders.index_select(0, index.senders)
        )
        return index.to_pairs(products)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        at_receivers, at_senders = ctx.saved_tensors
        by_receivers = (
            _Convolve.apply(grad, at_senders, ctx.index, False) if ctx.needs_input_grad[0] else None
        )
        by_senders = (
            _Convolve.apply(grad, at_receivers, ctx.index, True)
            if ctx.needs_input_grad[1]
            else None
        )
        return by_receivers, by_senders, None
