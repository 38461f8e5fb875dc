"""What a network does not see: subsurface atoms and edges away from the adsorbate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.models import random_potential
from helpers.structures import adslab, rattled, systems_of, turned

from geocalc.core.systems import Systems, concatenate
from geocalc.errors import InputError
from geocalc.graphs.neighbors import build_graph
from geocalc.graphs.reduction import Rewiring, keep_atoms
from geocalc.potentials.network import ForceMode, NetworkPotential

BOTH = Rewiring(drop_subsurface=True, adsorbate_edges=True)


def slabs() -> Systems:
    built = [
        rattled(adslab("O", "fcc", size=(2, 2, 3)), 0.1, 1),
        rattled(adslab("CO", "ontop", size=(2, 2, 3)), 0.1, 2),
    ]
    systems = [systems_of(one) for one in built]
    assert all({0, 1, 2} == set(one.tags.tolist()) for one in systems)
    return concatenate(systems)


def looking_at(rewiring: Rewiring, displaces: bool = True) -> NetworkPotential:
    potential = random_potential(force_mode=ForceMode.NONE, direct_forces=displaces)
    potential.model.rewiring, potential.model.displaces = rewiring, displaces
    return potential


def test_every_edge_that_is_kept_touches_an_adsorbate_and_none_of_those_is_lost() -> None:
    systems = slabs()
    graph = build_graph(systems, 4.0)
    kept = Rewiring(adsorbate_edges=True).edges(graph, systems)
    adsorbate = systems.tags == 2
    assert bool((adsorbate[kept.receivers] | adsorbate[kept.senders]).all())
    assert (
        kept.n_edges
        == int((adsorbate[graph.receivers] | adsorbate[graph.senders]).sum())
        < graph.n_edges
    )
    assert bool((kept.receivers.diff() >= 0).all())


def test_dropping_atoms_is_the_same_as_never_having_had_them() -> None:
    systems = slabs()
    bare = keep_atoms(systems, systems.tags != 0)
    assert torch.equal(looking_at(BOTH)(systems).energy, looking_at(BOTH)(bare).energy)


def test_what_is_not_seen_has_no_displacement_and_no_influence() -> None:
    systems = slabs()
    told = looking_at(BOTH)(systems)
    below = systems.tags == 0
    assert told.displacement is not None
    assert told.displacement.shape == systems.positions.shape
    assert not bool(told.displacement[below].any())
    assert bool(told.displacement[~below].any(1).all())
    moved = replace(systems, positions=systems.positions + 0.2 * below[:, None])
    assert torch.equal(looking_at(BOTH)(moved).energy, told.energy)


def test_a_batch_says_what_its_structures_say_alone() -> None:
    systems = slabs()
    together = looking_at(BOTH)(systems)
    first = systems_of(rattled(adslab("O", "fcc", size=(2, 2, 3)), 0.1, 1))
    alone = looking_at(BOTH)(first)
    assert float((together.energy[:1] - alone.energy).abs().max()) < 1e-12
    assert float((together.displacement[: first.n_atoms] - alone.displacement).abs().max()) < 1e-12  # type: ignore[index]


def test_displacements_turn_with_the_structure() -> None:
    systems = systems_of(rattled(adslab("CO", "ontop", size=(2, 2, 3)), 0.1, 2))
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64)
    turn[0, 0] = turn[1, 1] = angle.cos()
    turn[0, 1], turn[1, 0] = angle.sin(), -angle.sin()
    potential = looking_at(BOTH)
    before, after = potential(systems), potential(turned(systems, turn))
    assert float((before.energy - after.energy).abs().max()) < 1e-10
    assert float((before.displacement @ turn - after.displacement).abs().max()) < 1e-10  # type: ignore[operator]


def test_a_structure_without_an_adsorbate_is_refused() -> None:
    systems = slabs()
    bare = replace(systems, tags=torch.where(systems.system_idx == 1, 1, systems.tags))
    with pytest.raises(InputError, match="structure 1 of the batch has no adsorbate"):
        looking_at(BOTH)(bare)
