"""Networks of moments: their formulas, and what must not change them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from geocalc.errors import InputError
from geocalc.nn.edges import EdgeIndex
from geocalc.properties import GraphInput, MomentNetwork, MomentNetworkSettings, PropertyLevel
from geocalc.properties.glass.configuration import GlassConfiguration
from geocalc.properties.glass.neighborhood import build_neighborhood
from geocalc.properties.moment_network import (
    TypeNorm,
    legendre_coefficients,
    monomial_exponents,
    monomial_multiplicities,
    monomials,
)
from geocalc.properties.samples import GraphSample, collate_graphs

BOX, CUTOFF = 5.0, 2.0


def positions_and_types(seed: int = 0, side: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A cubic lattice of spacing one, add_noise; a fifth of the particles are B."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*3 * [np.arange(side)], indexing="ij"), -1).reshape(-1, 3)
    return grid + rng.normal(scale=0.1, size=grid.shape), np.arange(side**3) % 5 // 4


def sample(
    positions: np.ndarray, types: np.ndarray, box: float = BOX, self_loops: bool = True
) -> GraphSample:
    configuration = GlassConfiguration(
        name="made",
        positions=positions,
        types=types.astype(np.int64),
        box=np.full(3, box),
        times=np.array([1.0]),
        propensity=np.ones((1, len(types))),
    )
    edges = build_neighborhood(configuration, CUTOFF, self_loops)
    return GraphSample(
        name="made",
        types=torch.from_numpy(configuration.types),
        senders=edges.senders,
        receivers=edges.receivers,
        edge_vec=edges.edge_vec,
        targets=torch.ones(len(types), 1),
        counted=torch.ones(len(types), dtype=torch.bool),
    )


def network(**settings: object) -> MomentNetwork:
    torch.manual_seed(0)
    made = MomentNetwork(
        MomentNetworkSettings(
            cutoff=CUTOFF, channels=4, hidden_channels=8, **({"degrees": (3, 0)} | settings)
        )
    ).double()
    for norm in (part for part in made.train().modules() if isinstance(part, TypeNorm)):
        norm.momentum = 1.0
    with torch.no_grad():
        made(
            collate_graphs([sample(*positions_and_types(7))]).inputs
        )  # fills the averages of the norms
    return made.eval().requires_grad_(False)


def format_error(made: MomentNetwork, *samples: GraphSample) -> Tensor:
    return made(collate_graphs(list(samples)).inputs)


def test_moments_give_sums_over_pairs_of_neighbors():
    torch.manual_seed(2)
    units, weights = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    units = units / units.norm(dim=1, keepdim=True)
    cosines = units @ units.T
    moments = weights @ monomials(units, 5)
    places = torch.cumsum(
        torch.tensor([0] + [len(monomial_exponents(k)) for k in range(6)]), 0
    ).tolist()
    powers = torch.stack(
        [
            (moments[a:b].square() * monomial_multiplicities(k)).sum()
            for k, (a, b) in enumerate(pairwise(places))
        ]
    )
    for k in range(6):
        assert torch.allclose(powers[k], weights @ cosines**k @ weights)
        polynomial = np.polynomial.legendre.Legendre.basis(k)(cosines.numpy())
        assert torch.allclose(
            legendre_coefficients(5).double()[k] @ powers,
            weights @ torch.from_numpy(polynomial) @ weights,
        )


@pytest.mark.parametrize("level", list(PropertyLevel))
def test_turned_and_mirrored_it_says_the_same(level):
    made, graph = network(level=level), sample(*positions_and_types())
    turn = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    for matrix in (turn, -turn):
        turned = replace(graph, edge_vec=graph.edge_vec @ matrix.T)
        assert torch.allclose(format_error(made, turned), format_error(made, graph), atol=1e-10)


def test_moved_stored_in_other_images_and_in_another_order_it_says_the_same():
    made, (positions, types) = network(), positions_and_types()
    expected, rng = format_error(made, sample(positions, types)), np.random.default_rng(3)
    moved = positions + np.array([0.3, -7.0, 2.2]) + BOX * rng.integers(-2, 3, size=positions.shape)
    assert torch.allclose(format_error(made, sample(moved, types)), expected, atol=1e-9)
    order = rng.permutation(len(types))
    assert torch.allclose(
        format_error(made, sample(positions[order], types[order])), expected[order], atol=1e-10
    )


def test_a_doubled_box_says_the_same_of_every_copy():
    made, (positions, types) = network(), positions_and_types()
    shifts = BOX * np.stack(np.meshgrid(*3 * [np.arange(2)], indexing="ij"), -1).reshape(-1, 3)
    larger = (positions[None] + shifts[:, None]).reshape(-1, 3)
    assert torch.allclose(
        format_error(made, sample(larger, np.tile(types, 8), 2 * BOX)),
        format_error(made, sample(positions, types)).repeat(8, 1),
        atol=1e-9,
    )


def test_batches_say_what_singles_say():
    made, one, other = (
        network(),
        sample(*positions_and_types(1)),
        sample(*positions_and_types(2, 4), box=4.0),
    )
    assert torch.allclose(
        format_error(made, one, other),
        torch.cat([format_error(made, one), format_error(made, other)]),
        atol=1e-12,
    )


def test_a_particle_is_not_its_own_neighbor():
    made, (positions, types) = network(), positions_and_types()
    without = sample(positions, types, self_loops=False)
    assert torch.allclose(
        format_error(made, sample(positions, types)), format_error(made, without), atol=1e-12
    )


def test_a_neighbor_that_leaves_the_cutoff_leaves_no_step():
    made = network(degrees=(3,))

    def pair(length: float) -> Tensor:
        edges = torch.tensor([[length, 0, 0], [-length, 0, 0]], dtype=torch.float64)
        index = EdgeIndex.build(torch.tensor([1, 0]), torch.tensor([0, 1]), 2)
        types, graph_idx = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
        return made(
            GraphInput(types=types, graph_idx=graph_idx, n_graphs=1, index=index, edge_vec=edges)
        )

    near, away = pair(CUTOFF - 1e-5), pair(CUTOFF + 1.0)
    assert (near - away).abs().max() < 1e-6
    assert (pair(1.0) - away).abs().max() > 1e-3


def test_types_are_scaled_each_by_itself_and_their_averages_are_kept():
    norm, types = TypeNorm(2, 3, momentum=1.0).double().train(), torch.arange(100) % 2
    values = (
        torch.randn(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        + 10.0 * types[:, None]
    )
    scaled = norm(values, types)
    for kind in (0, 1):
        assert torch.allclose(
            scaled[types == kind].mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-10
        )
        assert torch.allclose(
            scaled[types == kind].std(0, unbiased=False),
            torch.ones(3, dtype=torch.float64),
            atol=1e-4,
        )
    assert torch.allclose(norm.eval()(values, types), scaled)
    kept = norm.mean.clone()
    # a batch without B leaves what is known of B
    norm.train()(values[types == 0], types[types == 0])
    assert torch.equal(norm.mean[1], kept[1])


def test_graphs_without_vectors_are_refused():
    index = EdgeIndex.build(torch.tensor([1]), torch.tensor([0]), 2)
    bare = GraphInput(
        types=torch.tensor([0, 1]),
        graph_idx=torch.zeros(2, dtype=torch.int64),
        n_graphs=1,
        index=index,
    )
    with pytest.raises(InputError, match="no edge vectors"):
        network()(bare)
