"""The update of edges: its derivative against numerical ones, in one block and in many, and what it
keeps in memory.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from properties.test_graph_network import VARIANTS, graphs, network, published
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional

from geocalc.nn.edges import EdgeIndex
from geocalc.properties import edge_update
from geocalc.properties.edge_update import update_edges

WIDTH, COLUMNS, FIXED_COLUMNS = 3, 2, 4


def arguments(index: EdgeIndex, given: bool, product: bool) -> list[Tensor | None]:
    """Random arguments of `update_edges`; `given`: there are fixed columns and neighbors;
    `product`: they have weights.
    """
    torch.manual_seed(0)
    n_edges, n = len(index.senders), index.n_atoms
    fixed = (n_edges, FIXED_COLUMNS if product else WIDTH)
    shapes = {
        "edges": (n_edges, COLUMNS),
        "fixed": fixed if given else None,
        "center": (n, WIDTH),
        "neighbor": (n, WIDTH) if given else None,
        "on_edges": (WIDTH, COLUMNS),
        "on_fixed": (WIDTH, FIXED_COLUMNS) if given and product else None,
        "second": (WIDTH, WIDTH),
        "bias": (WIDTH,),
    }
    return [
        None if shape is None else torch.randn(shape, dtype=torch.float64).requires_grad_()
        for shape in shapes.values()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("given", "product"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("outputs", ["edges", "received", "both"])
def test_gradients_are_numerical_ones(given: bool, product: bool, outputs: str) -> None:
    index = graphs((4, 1)).index

    def update(*values: Tensor | None) -> tuple[Tensor, ...]:
        found = update_edges(*values, index)
        return {
            "edges": (found.edges,),
            "received": (found.received,),
            "both": (found.edges, found.received),
        }[outputs]

    assert gradcheck(update, arguments(index, given, product))


@pytest.mark.parametrize("product", [False, True])
def test_gradients_of_what_updates_share_are_summed(product: bool) -> None:
    index = graphs((5,)).index
    _, fixed, center, neighbor, *weights = arguments(index, True, product)
    on_edges = torch.randn(WIDTH, WIDTH, dtype=torch.float64)

    def three(fixed: Tensor, edges: Tensor) -> Tensor:
        for _ in range(3):
            found = update_edges(edges, fixed, center, neighbor, on_edges, *weights[1:], index)
            edges, fixed = found.edges, found.fixed
        return edges

    assert gradcheck(
        three, (fixed, torch.randn(len(index.senders), WIDTH, dtype=torch.float64).requires_grad_())
    )


def test_a_graph_can_be_differentiated_again() -> None:
    made, inputs = network(graphs((6, 3)))
    loss = made(inputs).square().sum()
    first = torch.autograd.grad(loss, list(made.parameters()), retain_graph=True)
    again = torch.autograd.grad(loss, list(made.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_second_derivative_is_refused() -> None:
    index = graphs((4,)).index
    values = arguments(index, True, False)
    (grad,) = torch.autograd.grad(
        update_edges(*values, index).edges.square().sum(), values[0], create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_blocks_change_nothing(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks end at whole receivers; among these, some have no edges, and one has more than a block
    holds.
    """
    made, inputs = network(graphs((30, 1, 14), loops=False), **settings)
    index = inputs.index
    receivers, senders = (
        torch.cat([index.receivers, torch.full((90,), 44)]),
        torch.cat([index.senders, torch.arange(90) % 45]),
    )
    inputs = replace(
        inputs,
        index=EdgeIndex.build(senders, receivers, 45),
        edge_vec=torch.cat([inputs.edge_vec, torch.ones(90, 3, dtype=torch.float64)]),
    )
    monkeypatch.setattr(edge_update, "BLOCK_BYTES", 1)
    blocks = inputs.index.blocks(64)
    assert len(blocks) > 3
    assert [edges.stop for _, edges in blocks[:-1]] == [edges.start for _, edges in blocks[1:]]
    found, expected = made(inputs), published(made, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-10)
    values = list(made.parameters())
    ours = torch.autograd.grad(found.square().sum(), values, allow_unused=True)
    theirs = torch.autograd.grad(expected.square().sum(), values, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert float((a - b).norm()) <= 1e-10 * float(b.norm())


def test_blocks_hold_every_edge_once_at_its_receiver() -> None:
    index = graphs((20, 1, 20), loops=False).index
    blocks = index.blocks(10)
    assert torch.equal(
        torch.cat([torch.arange(edges.start, edges.stop) for _, edges in blocks]),
        torch.arange(len(index.senders)),
    )
    for nodes, edges in blocks:
        assert set(index.receivers[edges].tolist()) <= set(range(nodes.start, nodes.stop))
        assert edges.stop - edges.start <= 10 or len(set(index.receivers[edges].tolist())) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_a_step_keeps_its_new_edges_and_nothing_else_of_that_size(shared: bool) -> None:
    n_layers, width = 5, 8
    made, inputs = network(graphs((30,)), num_layers=n_layers, hidden_channels=width, shared=shared)
    n_edges, kept = len(inputs.index.senders), {}

    def keep(values: Tensor) -> Tensor:
        if values.shape[0] == n_edges and values.dim() == 2:
            kept[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        made(inputs)
    # each update, the encoded edges, and their product with shared weights
    edges_kept = n_layers + (2 if shared else 1)
    assert sum(kept.values()) == n_edges * (edges_kept * width + 3) * 8


def test_the_layer_on_everything_side_by_side_is_the_sum_of_its_products() -> None:
    index = graphs((6,)).index
    edges, fixed, center, neighbor, on_edges, on_fixed, second, bias = arguments(index, True, True)
    first = functional.linear(
        torch.cat([edges, fixed], dim=1), torch.cat([on_edges, on_fixed], dim=1)
    )
    hidden = functional.relu(first + center[index.receivers] + neighbor[index.senders])
    expected = functional.relu(functional.linear(hidden, second, bias))
    found = update_edges(edges, fixed, center, neighbor, on_edges, on_fixed, second, bias, index)
    torch.testing.assert_close(found.edges, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        found.received, torch.zeros(6, WIDTH).double().index_add(0, index.receivers, expected)
    )
