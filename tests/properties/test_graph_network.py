"""The graph network: against the published equations written out, its numbers of weights, and what
each setting does.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from geocalc.errors import InputError
from geocalc.nn.edges import EdgeIndex
from geocalc.properties import GraphInput, GraphNetwork, GraphNetworkSettings, PropertyLevel
from geocalc.properties.graph_network import TwoLayers

REPORT = GraphNetworkSettings(
    shared=False, edges_first=False, one_hot=True, decoder_layers=1, initialization="torch"
)
SMALL = {"hidden_channels": 5, "num_layers": 3}
VARIANTS = [
    {},
    {"shared": False},
    {"edges_first": False},
    {
        "shared": False,
        "edges_first": False,
        "one_hot": True,
        "decoder_layers": 1,
        "initialization": "torch",
    },
    {"outgoing": True},
    {"outgoing": True, "edges_first": False},
    {"n_features": 2, "n_targets": 3},
    {"level": "graph", "n_targets": 2},
]


def graphs(sizes: tuple[int, ...], seed: int = 0, loops: bool = True) -> GraphInput:
    """Random graphs; some nodes neither send nor receive unless there are edges to themselves."""
    generator = torch.Generator().manual_seed(seed)
    graph_idx = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    n = len(graph_idx)
    linked = (torch.rand(n, n, generator=generator) < 0.3) & (graph_idx[:, None] == graph_idx)
    linked = (
        linked | torch.eye(n, dtype=torch.bool)
        if loops
        else linked & ~torch.eye(n, dtype=torch.bool)
    )
    receivers, senders = linked.nonzero().unbind(1)
    return GraphInput(
        types=torch.randint(0, 2, (n,), generator=generator),
        graph_idx=graph_idx,
        n_graphs=len(sizes),
        index=EdgeIndex.build(senders, receivers, n),
        edge_vec=torch.randn(len(senders), 3, generator=generator, dtype=torch.float64),
        features=torch.randn(n, 2, generator=generator, dtype=torch.float64),
    )


def network(
    inputs: GraphInput, seed: int = 0, **settings: object
) -> tuple[GraphNetwork, GraphInput]:
    """A network with larger weights than it begins with, and inputs with as many features as it
    reads.
    """
    torch.manual_seed(seed)
    made = GraphNetwork(GraphNetworkSettings(**{**SMALL, **settings})).double()
    with torch.no_grad():
        for values in made.parameters():
            values.copy_(torch.randn(values.shape, dtype=torch.float64) * 0.4)
    return made, inputs if made.settings.n_features else replace(inputs, features=None)


def layers(mlp: TwoLayers, *parts: Tensor) -> Tensor:
    """The MLP on its inputs side by side, as published."""
    hidden = functional.relu(torch.cat(parts, dim=1) @ mlp.first.weight.T + mlp.first.bias)
    return functional.relu(hidden @ mlp.last.weight.T + mlp.last.bias)


def published(made: GraphNetwork, inputs: GraphInput) -> Tensor:
    """The equations, one concatenation each; sums over edges by products with the incidence
    matrices.
    """
    s, senders, receivers = made.settings, inputs.index.senders, inputs.index.receivers
    types = functional.one_hot(inputs.types, s.n_types) if s.one_hot else inputs.types[:, None]
    known = (
        types.double()
        if inputs.features is None
        else torch.cat([types.double(), inputs.features], dim=1)
    )
    into = functional.one_hot(receivers, len(types)).double().T
    out_of = functional.one_hot(senders, len(types)).double().T
    v0, e0 = layers(made.encode_nodes, known), layers(made.encode_edges, inputs.edge_vec)
    v, e = v0, e0
    for k in range(s.num_layers):
        step = made.steps[0 if s.shared else k]
        new = layers(step.edge, e, e0, v[receivers], v0[receivers], v[senders], v0[senders])
        sent = [new] if s.edges_first else [e, e0]
        # incoming and outgoing sums of the current edges stand before those of the encoded ones
        sums = [
            matrix @ part for part in sent for matrix in ([into, out_of] if s.outgoing else [into])
        ]
        v, e = layers(step.node, v, v0, *sums), new
    if s.level is PropertyLevel.GRAPH:
        v = torch.stack([v[inputs.graph_idx == k].mean(0) for k in range(inputs.n_graphs)])
    return made.decode(v)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("loops", [True, False])
def test_it_is_the_published_formula_with_its_gradients(
    settings: dict[str, object], loops: bool
) -> None:
    made, inputs = network(graphs((7, 1, 9), loops=loops), **settings)
    weights = torch.randn(made(inputs).shape, dtype=torch.float64)
    found, expected = made(inputs), published(made, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert expected.std() > 1e-3
    by_ours = torch.autograd.grad(
        (found * weights).sum(), list(made.parameters()), allow_unused=True
    )
    by_theirs = torch.autograd.grad(
        (expected * weights).sum(), list(made.parameters()), allow_unused=True
    )
    for (name, _), ours, theirs in zip(made.named_parameters(), by_ours, by_theirs, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=name)


def test_the_defaults_are_published_with_62401_weights_all_in_use() -> None:
    made, inputs = (
        GraphNetwork(GraphNetworkSettings()).double(),
        replace(graphs((6, 6)), features=None),
    )
    grads = torch.autograd.grad(made(inputs).square().sum(), list(made.parameters()))
    assert sum(values.numel() for values in grads) == 62_401


def test_seven_separate_layers_have_358849_weights_without_the_unused_edge_update() -> None:
    made, inputs = GraphNetwork(REPORT).double(), replace(graphs((6, 6)), features=None)
    values = dict(made.named_parameters())
    assert sum(weight.numel() for weight in values.values()) == 358_849
    grads = torch.autograd.grad(made(inputs).sum(), list(values.values()), allow_unused=True)
    unused = {
        name: weight.numel()
        for (name, weight), grad in zip(values.items(), grads, strict=True)
        if grad is None
    }
    assert sum(unused.values()) == 28_800
    assert all(name.startswith("steps.6.edge.") for name in unused)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_numbering_of_nodes_and_edges_says_nothing(settings: dict[str, object]) -> None:
    made, inputs = network(graphs((8, 5)), **settings)
    order = torch.cat([torch.randperm(8), 8 + torch.randperm(5)])
    place = torch.argsort(order)
    receivers, senders = place[inputs.index.receivers], place[inputs.index.senders]
    mixed = torch.randperm(len(receivers))
    edges = mixed[torch.argsort(receivers[mixed], stable=True)]
    permuted = replace(
        inputs,
        types=inputs.types[order],
        features=None if inputs.features is None else inputs.features[order],
        index=EdgeIndex.build(senders[edges], receivers[edges], 13),
        edge_vec=inputs.edge_vec[edges],
    )
    expected = made(inputs) if made.level is PropertyLevel.GRAPH else made(inputs)[order]
    torch.testing.assert_close(made(permuted), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_batch_is_its_graphs(settings: dict[str, object]) -> None:
    made, inputs = network(graphs((6, 1, 4)), **settings)
    index, alone = inputs.index, []
    for k in range(3):
        nodes = (inputs.graph_idx == k).nonzero().squeeze(1)
        edges = inputs.graph_idx[index.receivers] == k
        first = int(nodes[0])
        alone.append(
            GraphInput(
                types=inputs.types[nodes],
                graph_idx=torch.zeros_like(nodes),
                n_graphs=1,
                index=EdgeIndex.build(
                    index.senders[edges] - first, index.receivers[edges] - first, len(nodes)
                ),
                edge_vec=inputs.edge_vec[edges],
                features=None if inputs.features is None else inputs.features[nodes],
            )
        )
    torch.testing.assert_close(
        made(inputs), torch.cat([made(one) for one in alone]), rtol=0, atol=1e-11
    )


def test_a_graph_without_edges_is_told_from_its_nodes_alone() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    types = torch.tensor([0, 1, 0])
    inputs = GraphInput(
        types=types,
        graph_idx=torch.zeros(3, dtype=torch.int64),
        n_graphs=1,
        index=EdgeIndex.build(nothing, nothing, 3),
        edge_vec=torch.zeros(0, 3, dtype=torch.float64),
    )
    made, _ = network(inputs)
    found = made(inputs)
    assert found[0] == found[2] != found[1]
    found.sum().backward()


@pytest.mark.parametrize(("edges_first", "reached"), [(True, 4), (False, 2)])
def test_a_node_hears_of_an_edge_a_step_later_where_nodes_do_not_wait_for_edges(
    edges_first: bool, reached: int
) -> None:
    """On a line of nodes that all point one way, four steps carry the vector of the first edge to
    four nodes.

    Where nodes receive edges from before the update, the second node hears of the first only in the
    third step.
    """
    n, steps = 9, 4
    chain = torch.arange(n - 1)
    inputs = GraphInput(
        types=torch.zeros(n, dtype=torch.int64),
        graph_idx=torch.zeros(n, dtype=torch.int64),
        n_graphs=1,
        index=EdgeIndex.build(chain, chain + 1, n),
        edge_vec=torch.randn(n - 1, 3, dtype=torch.float64),
    )
    made, _ = network(inputs, num_layers=steps, edges_first=edges_first)
    with torch.no_grad():
        for name, values in made.named_parameters():
            values.abs_() if name.startswith(("steps", "decode")) else None
    moved = inputs.edge_vec.clone()
    moved[0] += 1.0
    changed = (made(inputs) - made(replace(inputs, edge_vec=moved))).abs().squeeze(1) > 1e-12
    assert int(changed.sum()) == reached


def test_weights_begin_as_published() -> None:
    torch.manual_seed(0)
    made = GraphNetwork(GraphNetworkSettings(hidden_channels=256))
    weight, bias = (
        made.steps[0].edge.first.weight.detach(),
        torch.cat([made.decode[k].bias for k in (0, 2)]),
    )
    assert float(weight.std()) == pytest.approx((6 * 256) ** -0.5, rel=0.01)
    assert float(bias.detach().std()) == pytest.approx((0.1 / 256) ** 0.5, rel=0.1)
    assert float(weight.abs().max()) <= 2 * (6 * 256) ** -0.5 / 0.8796


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_vec": None}, "no edge vectors"),
        (
            {"types": torch.tensor([0, 1, 2])},
            "types of nodes run from 0 to 2; the network knows 0 to 1",
        ),
        ({"features": torch.zeros(3, 4)}, "nodes come with 4 features, the network expects 0"),
    ],
)
def test_other_nodes_and_edges_are_refused(change: dict[str, object], message: str) -> None:
    inputs = replace(graphs((3,)), features=None)
    with pytest.raises(InputError, match=message):
        GraphNetwork(GraphNetworkSettings())(replace(inputs, **change))
