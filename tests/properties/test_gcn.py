"""Graph convolutional networks against dense matrices."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from geocalc.errors import InputError
from geocalc.nn.edges import EdgeIndex
from geocalc.properties import GCN, NETWORKS, GCNSettings, GraphInput, PropertyLevel

LARGE = GCNSettings(conv_channels=(128, 128, 64, 64, 64), mlp_channels=(64, 64, 32, 16))


def molecules(sizes: tuple[int, ...], n_types: int = 21, loops: bool = False) -> GraphInput:
    """Random graphs whose edges go both ways; the last node of each has none."""
    generator = torch.Generator().manual_seed(3)
    graph_idx = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    n = len(graph_idx)
    linked = (torch.rand(n, n, generator=generator) < 0.4) & (graph_idx[:, None] == graph_idx)
    linked[torch.tensor(sizes).cumsum(0) - 1] = False
    linked = (linked & linked.T) & ~torch.eye(n, dtype=torch.bool) | (
        loops & torch.eye(n, dtype=torch.bool)
    )
    receivers, senders = linked.nonzero().unbind(1)
    types = torch.randint(0, n_types, (n,), generator=generator)
    return GraphInput(
        types=types,
        graph_idx=graph_idx,
        n_graphs=len(sizes),
        index=EdgeIndex.build(senders, receivers, n),
    )


def made(**settings: object) -> GCN:
    torch.manual_seed(1)
    network = GCN(GCNSettings(**settings)).double()
    with torch.no_grad():
        for values in network.parameters():
            values.add_(0.1 * torch.randn(values.shape))  # biases too, which begin at zero
    return network


def by_matrices(network: GCN, inputs: GraphInput) -> Tensor:
    n = len(inputs.types)
    linked = torch.zeros(n, n, dtype=torch.float64)
    linked[inputs.index.receivers, inputs.index.senders] = 1.0
    linked.fill_diagonal_(1.0)
    root = torch.diag(linked.sum(1) ** -0.5)
    hidden = functional.one_hot(inputs.types, network.n_types).double()
    for k, layer in enumerate(network.convolutions):
        hidden = (
            root @ linked @ root @ (hidden.relu() if k else hidden) @ layer.lin.weight.T
            + layer.bias
        )
    if network.level is PropertyLevel.GRAPH:
        hidden = torch.stack(
            [hidden[inputs.graph_idx == k].mean(0) for k in range(inputs.n_graphs)]
        )
    return network.mlp(hidden)


@pytest.mark.parametrize("level", list(PropertyLevel))
@pytest.mark.parametrize("loops", [False, True])
def test_it_is_the_dense_formula(level: PropertyLevel, loops: bool) -> None:
    network, inputs = (
        made(level=level, conv_channels=(16, 8, 8), n_targets=2),
        molecules((9, 1, 6), loops=loops),
    )
    found, expected = network(inputs), by_matrices(network, inputs)
    assert found.shape == ((3, 2) if level is PropertyLevel.GRAPH else (16, 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert expected.std() > 1e-3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (GCNSettings(), 22 * 16 + 17 * 16 + 2 * 17 * 16 + 17),
        (
            LARGE,
            22 * 128 + 129 * 128 + 129 * 64 + 2 * 65 * 64 + 2 * 65 * 64 + 65 * 32 + 33 * 16 + 17,
        ),
    ],
)
def test_numbers_of_weights(settings: GCNSettings, expected: int) -> None:
    assert sum(values.numel() for values in GCN(settings).parameters()) == expected


def test_a_batch_is_its_graphs_and_their_order_says_nothing() -> None:
    network, inputs = made(), molecules((7, 5))
    order = torch.cat([torch.arange(7, 12), torch.randperm(7)])
    place, index = torch.argsort(order), inputs.index
    receivers, edges = torch.sort(place[index.receivers], stable=True)
    index = EdgeIndex.build(place[index.senders][edges], receivers, 12)
    swapped = replace(inputs, types=inputs.types[order], graph_idx=(order < 7).long(), index=index)
    torch.testing.assert_close(network(swapped), network(inputs).flip(0), rtol=0, atol=1e-12)


def test_features_stand_beside_types() -> None:
    inputs = molecules((5,))
    network = made(n_features=3)
    with pytest.raises(
        InputError, match="nodes come with 0 features, the network expects 3: set n_features=0"
    ):
        network(inputs)
    told = [network(replace(inputs, features=torch.full((5, 3), value))) for value in (0.0, 1.0)]
    assert float((told[0] - told[1]).detach().abs().max()) > 1e-3


def test_networks_by_name() -> None:
    for name, kind in NETWORKS.items():
        network = kind.build(
            kind.settings.parse({"n_types": 3, "n_targets": 2, "level": "graph"}, name)
        )
        assert (network.n_types, network.n_targets, network.level) == (3, 2, PropertyLevel.GRAPH)


def test_torch_geometric_is_imported_only_where_it_is_needed() -> None:
    code = "import sys, geocalc.properties; print('torch_geometric' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
