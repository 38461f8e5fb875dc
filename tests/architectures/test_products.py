"""Products of messages: equivariance, angles, bounds, and the networks that have them."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn import o3
from helpers.models import random_network
from helpers.structures import adslab, rattled, systems_of
from torch import Tensor

from geocalc.architectures.regnn.products import Products
from geocalc.core.systems import Systems, concatenate
from geocalc.frames import frame_policy
from geocalc.potentials.network import EnergyModel, NetworkPotential, Scales
from geocalc.testing import (
    assert_batch_equals_singles,
    assert_forces_are_gradient,
    assert_permutation_equivariant,
    assert_reflection_invariant,
    assert_rotation_invariant,
)

MESSAGES = o3.Irreps("4x0e + 3x1o + 2x2e")
MADE = o3.Irreps("5x0e + 2x1o + 3x2e")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def products(correlation: int, messages: o3.Irreps = MESSAGES) -> Products:
    """With random weights also where they begin as zeros."""
    torch.manual_seed(0)
    made = Products(messages, MADE, channels=6, correlation=correlation).double()
    for weight in made.after.parameters():
        torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return made


def potential(correlation: int) -> NetworkPotential:
    network = random_network(
        architecture="regnn", features="8x0e + 4x1o + 2x2e", l_relaxed=0, correlation=correlation
    ).double()
    scales = Scales(energy=1.0, forces=1.0, references=torch.zeros(1, 119))
    return NetworkPotential(model=EnergyModel(network, scales, None), policy=frame_policy("none"))


def slab(name: str = "CO") -> Systems:
    return systems_of(rattled(adslab(name, "fcc", size=(2, 2, 2)), 0.1))


@pytest.mark.parametrize("correlation", [2, 3, 4])
@pytest.mark.parametrize("messages", ["4x0e + 3x1o + 2x2e", "2x0e + 1x0o + 2x1o + 1x1e + 2x2o"])
def test_products_turn_with_the_messages(correlation: int, messages: str) -> None:
    irreps = o3.Irreps(messages)
    made = products(correlation, irreps)
    turn, _ = torch.linalg.qr(drawn(3, 3, seed=1))
    for matrix in (turn, -turn):
        torch.set_default_dtype(torch.float64)
        before, after = irreps.D_from_matrix(matrix), MADE.D_from_matrix(matrix)
        torch.set_default_dtype(torch.float32)
        here = made(drawn(7, irreps.dim))
        there = made(drawn(7, irreps.dim) @ before.T)
        assert float((there - here @ after.T).detach().abs().max()) < 1e-9
        assert float(here[:, :5].detach().abs().min()) > 0


def test_squares_tell_the_angle_between_two_neighbors_and_a_linear_map_does_not() -> None:
    def message(degrees: float) -> Tensor:
        angle = math.radians(degrees)
        ends = torch.tensor([[1.0, 0, 0], [math.cos(angle), math.sin(angle), 0]]).double()
        first = o3.spherical_harmonics(o3.Irreps("0e + 1o + 2e"), ends, True, "component").sum(0)
        scalar, vector, tensor = first.split([1, 3, 5])
        return torch.cat([scalar.repeat(4), vector.repeat(3), tensor.repeat(2)])[None]

    squares = products(2)
    right, wide = squares(message(90.0)), squares(message(150.0))
    assert float((right - wide)[:, :5].detach().abs().max()) > 0.01
    assert torch.equal(squares.before(message(90.0))[:, :6], squares.before(message(150.0))[:, :6])


def test_a_network_begins_as_one_without_products() -> None:
    fresh = Products(MESSAGES, MADE, channels=6, correlation=3)
    assert torch.equal(fresh(drawn(4, MESSAGES.dim).float()), torch.zeros(4, MADE.dim))


def test_products_are_bounded() -> None:
    made = products(3)
    sizes = [float(made(scale * drawn(1, MESSAGES.dim)).detach().norm()) for scale in (1e2, 1e4)]
    assert sizes[1] < 1.1 * sizes[0]


def test_products_of_typical_messages_have_about_unit_size() -> None:
    assert 0.2 < float(products(3)(drawn(400, MESSAGES.dim)).detach().square().mean().sqrt()) < 5


@pytest.mark.parametrize("correlation", [2, 3])
def test_a_network_with_products_keeps_the_laws(correlation: int) -> None:
    chosen = potential(correlation)
    assert_rotation_invariant(chosen, slab())
    assert_reflection_invariant(chosen, slab())
    assert_permutation_equivariant(chosen, slab())
    assert_batch_equals_singles(chosen, concatenate([slab(), slab("OH")]))
    assert_forces_are_gradient(chosen, slab())


def test_products_change_what_a_network_predicts() -> None:
    energies = {float(potential(correlation)(slab()).energy) for correlation in (1, 2, 3)}
    assert len(energies) == 3
