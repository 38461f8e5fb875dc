"""SchNet against the implementation of PyTorch Geometric with the same weights, and what its parts
promise.
"""

from __future__ import annotations

import math

import pytest
import torch
from helpers.models import SMALL_SCHNET, random_network, random_potential
from helpers.structures import adslab, cloud, rattled, systems_of
from torch import Tensor, nn

from geocalc.architectures import SchNet, SchNetSettings
from geocalc.architectures.base import NetworkInput
from geocalc.core.systems import Systems
from geocalc.errors import InputError
from geocalc.graphs.neighbors import build_graph, edge_vectors, pair_edges
from geocalc.nn.convolution import convolve
from geocalc.nn.edges import EdgeIndex

AGREEMENT = 1e-10  # relative to the largest component, or absolute below one
NAMES = {  # of parameters, ours and theirs
    "element": "embedding",
    "filter_first": "mlp.0",
    "filter_last": "mlp.2",
    "down": "conv.lin1",
    "up": "conv.lin2",
    "last": "lin",
}


def batch() -> Systems:
    """Molecules and a periodic slab, in which an atom is its own neighbor."""
    return systems_of(cloud(), rattled(adslab("CO", size=(1, 2, 2))), cloud(3, seed=1))


def as_seen(systems: Systems, cutoff: float) -> tuple[NetworkInput, Tensor]:
    """Input of a network, and the positions it can be differentiated by."""
    graph = build_graph(systems, cutoff)
    positions = systems.positions.clone().requires_grad_()
    inputs = NetworkInput(
        numbers=systems.numbers,
        tags=systems.tags,
        system_idx=systems.system_idx,
        n_systems=systems.n_systems,
        index=EdgeIndex.build(
            graph.senders, graph.receivers, systems.n_atoms, pair_edges(graph, systems.n_atoms)
        ),
        edge_vec=edge_vectors(positions, systems.cell, systems.system_idx, graph),
        levels=torch.zeros_like(systems.counts),
    )
    return inputs, positions


def name_of_theirs(name: str) -> str:
    """`interactions.0.conv.lin2.bias` for `blocks.0.up.bias`."""
    *place, part, kind = name.split(".")
    if not place:
        return f"{ {'element': 'embedding', 'first': 'lin1', 'last': 'lin2'}[part] }.{kind}"
    return f"interactions.{place[1]}.{NAMES[part]}.{kind}"


def published(ours: SchNet, inputs: NetworkInput) -> nn.Module:
    """PyTorch Geometric's SchNet with our weights, on the edges that ours has: its own search knows
    no periodic images.
    """
    from torch_geometric.nn.models import SchNet as Published

    def graph(positions: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([inputs.index.senders, inputs.index.receivers]), inputs.edge_vec.norm(
            dim=1
        )

    theirs = Published(**SMALL_SCHNET, interaction_graph=graph).double()
    for module in theirs.modules():
        if hasattr(module, "shift"):
            module.shift = math.log(2.0)  # theirs is rounded to float32
    weights = {name_of_theirs(name): value for name, value in ours.state_dict().items()}
    weights["embedding.weight"] = weights["embedding.weight"][:100]
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert unexpected == []
    # the filters, under their second name
    again = [name for name in missing if ".conv.nn." in name]
    assert [name for name in missing if name not in again] == ["distance_expansion.offset"]
    return theirs


def loss_gradients(net: nn.Module, energy: Tensor, positions: Tensor) -> Tensor:
    """Backward pass of a loss on energies and forces; the forces."""
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    ((energy - 1).pow(2).sum() + (gradient - 0.1).pow(2).sum()).backward()
    return -gradient.detach()


def difference(ours: Tensor, other: Tensor) -> float:
    """Largest deviation relative to the largest component of `other`, or absolute where that is
    below one.
    """
    return float((ours - other).detach().abs().max() / other.detach().abs().max().clamp(min=1.0))


def test_the_published_implementation_agrees() -> None:
    ours = random_network(architecture="schnet").double()
    inputs, positions = as_seen(batch(), ours.cutoff)
    energy = ours(inputs).energy
    forces = loss_gradients(ours, energy, positions)
    inputs, positions = as_seen(batch(), ours.cutoff)
    theirs = published(ours, inputs)
    other = theirs(inputs.numbers, positions, inputs.system_idx).squeeze(1)
    assert difference(energy, other) < AGREEMENT
    assert difference(forces, loss_gradients(theirs, other, positions)) < AGREEMENT
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        expected = gradients[name_of_theirs(name)]
        assert difference(weight.grad[: len(expected)], expected) < AGREEMENT, name


def test_the_convolution_can_be_differentiated_twice() -> None:
    graph = build_graph(systems_of(rattled(adslab("O", size=(1, 1, 2)))), 3.0)
    n_atoms = 3
    index = EdgeIndex.build(graph.senders, graph.receivers, n_atoms, pair_edges(graph, n_atoms))
    generator = torch.Generator().manual_seed(0)
    n_pairs = len(index.pair_offsets)
    filters = torch.randn((n_pairs, 2), generator=generator, dtype=torch.double, requires_grad=True)
    values = torch.randn((n_atoms, 2), generator=generator, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, v: convolve(f, v, index), (filters, values))
    assert torch.autograd.gradgradcheck(lambda f, v: convolve(f, v, index), (filters, values))


def test_atoms_without_neighbors_have_an_energy_and_no_forces() -> None:
    net = random_network(architecture="schnet").double()
    apart = cloud(2)
    apart.positions = [(0, 0, 0), (9, 0, 0)]
    inputs, positions = as_seen(systems_of(apart), net.cutoff)
    energy = net(inputs).energy
    assert torch.equal(loss_gradients(net, energy, positions), torch.zeros_like(positions))
    assert bool(torch.isfinite(energy).all())
    assert all(
        bool(torch.isfinite(weight.grad).all())
        for weight in net.parameters()
        if weight.grad is not None
    )


def test_tags_are_read_only_where_they_are_embedded() -> None:
    slab = adslab("O", size=(2, 2, 2))
    relabeled = slab.copy()
    relabeled.set_tags(1)
    systems = systems_of(slab, relabeled)
    blind, seeing = (
        random_potential("none", architecture="schnet", tag_hidden_channels=n)(systems).energy
        for n in (0, 3)
    )
    assert float((blind[0] - blind[1]).abs()) < 1e-12
    assert float((seeing[0] - seeing[1]).abs()) > 1e-3


def test_too_many_channels_for_tags_are_refused() -> None:
    with pytest.raises(InputError, match="tag_hidden_channels=8 leaves no channels for elements"):
        SchNet(SchNetSettings(hidden_channels=8, tag_hidden_channels=8))
