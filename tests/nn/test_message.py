"""The edge step: values against a plain sum, first and second derivatives against finite
differences.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from geocalc.nn.edges import EdgeIndex
from geocalc.nn.message import aggregate

N_ATOMS, WIDTH = 5, 3


def n_pairs(n_edges: int) -> int:
    return (2 * n_edges + 2) // 3


def inputs(n_edges: int, n_atoms: int = N_ATOMS) -> list[Tensor]:
    """Edge, shared, center, neighbor, value and envelope, float64 and differentiable."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(n_edges, WIDTH), (n_pairs(n_edges), WIDTH), *[(n_atoms, WIDTH)] * 3, (n_edges, 1)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.double).requires_grad_()
        for shape in shapes
    ]


def edges(n_edges: int, n_atoms: int = N_ATOMS) -> EdgeIndex:
    """Random edges, an edge to itself and a repeated one among them; the last atom receives
    nothing.
    """
    generator = torch.Generator().manual_seed(3)
    receivers = torch.sort(torch.randint(0, n_atoms - 1, (n_edges,), generator=generator))[0]
    senders = torch.randint(0, n_atoms, (n_edges,), generator=generator)
    senders[:2], senders[2] = senders[0].clone(), receivers[2]
    receivers[:2] = receivers[0].clone()
    pair_of = torch.cat([torch.arange(n_pairs(n_edges)), torch.arange(n_edges - n_pairs(n_edges))])
    return EdgeIndex.build(senders, receivers, n_atoms, pair_of)


def plain(
    edge: Tensor,
    shared: Tensor,
    center: Tensor,
    neighbor: Tensor,
    value: Tensor,
    envelope: Tensor,
    index: EdgeIndex,
    act: bool,
) -> Tensor:
    z = edge + shared[index.pair_of] + center[index.receivers] + neighbor[index.senders]
    message = envelope * (functional.silu(z) if act else z) * value[index.senders]
    return torch.zeros_like(value).index_add(0, index.receivers, message)


@pytest.mark.parametrize("activate", [True, False])
def test_values_are_the_plain_sum(activate: bool) -> None:
    arguments, index = inputs(14), edges(14)
    out = aggregate(*arguments, index, activate)
    torch.testing.assert_close(out, plain(*arguments, index, activate), rtol=1e-14, atol=1e-14)
    assert torch.equal(out[-1], torch.zeros(WIDTH, dtype=torch.double))


@pytest.mark.parametrize("activate", [True, False])
def test_first_and_second_derivatives(activate: bool) -> None:
    arguments, index = inputs(14), edges(14)
    assert torch.autograd.gradcheck(lambda *a: aggregate(*a, index, activate), arguments)
    assert torch.autograd.gradgradcheck(lambda *a: aggregate(*a, index, activate), arguments)


@pytest.mark.parametrize("activate", [True, False])
def test_second_derivatives_of_a_subset_of_inputs(activate: bool) -> None:
    edge, shared, center, neighbor, value, envelope = (t.detach() for t in inputs(9))
    index = edges(9)
    edge.requires_grad_()
    value.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda e, v: aggregate(e, shared, center, neighbor, v, envelope, index, activate),
        [edge, value],
    )


def test_without_shared_products() -> None:
    (edge, shared, *others), index = inputs(9), edges(9)
    assert torch.autograd.gradgradcheck(
        lambda e, *a: aggregate(e, None, *a, index, True), [edge, *others]
    )
    spread = aggregate(edge + shared[index.pair_of], None, *others, index, True)
    torch.testing.assert_close(
        spread, aggregate(edge, shared, *others, index, True), rtol=1e-14, atol=1e-14
    )


@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("n_atoms", [N_ATOMS, 1])
def test_no_edges(activate: bool, n_atoms: int) -> None:
    none = torch.zeros(0, dtype=torch.long)
    index, arguments = EdgeIndex.build(none, none, n_atoms), inputs(0, n_atoms)
    out = aggregate(*arguments, index, activate)
    assert torch.equal(out, torch.zeros((n_atoms, WIDTH), dtype=torch.double))
    weights = torch.ones_like(out).requires_grad_()
    first = torch.autograd.grad(out, arguments, weights, create_graph=True)
    assert [g.shape for g in first] == [a.shape for a in arguments]
    assert all(bool((g == 0).all()) for g in first)
    (second,) = torch.autograd.grad(sum(g.sum() for g in first), weights)
    assert torch.equal(second, torch.zeros_like(weights))


def test_segment_sums_follow_receivers_senders_and_pairs() -> None:
    index = edges(14)
    rows = torch.arange(14.0, dtype=torch.double)[:, None].expand(14, 2).contiguous()
    zero = torch.zeros((N_ATOMS, 2), dtype=torch.double)
    assert torch.equal(index.to_receivers(rows), zero.index_add(0, index.receivers, rows))
    assert torch.equal(index.to_senders(rows), zero.index_add(0, index.senders, rows))
    zero = torch.zeros((n_pairs(14), 2), dtype=torch.double)
    assert torch.equal(index.to_pairs(rows), zero.index_add(0, index.pair_of, rows))
    assert torch.equal(index.pair_of[index.first_of_pair], torch.arange(n_pairs(14)))
