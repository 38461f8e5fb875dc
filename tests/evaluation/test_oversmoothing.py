"""MAD against distances counted by hand, and against what may not change it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from helpers.models import random_network, random_potential
from helpers.structures import adslab, cloud, rattled, systems_of
from torch import Tensor

from geocalc.architectures.ensemble import Ensemble
from geocalc.core.systems import Systems, select
from geocalc.errors import InputError
from geocalc.evaluation.oversmoothing import LayerMad, layer_mad, mean_average_distance
from geocalc.frames import frame_policy
from geocalc.graphs.reduction import Rewiring
from geocalc.potentials.network import NetworkPotential
from geocalc.structures.transforms import random_order, reordered, singles, supercell

SLABS = systems_of(
    rattled(adslab("CO", size=(1, 1, 2))), rattled(adslab("O", size=(1, 2, 2)), seed=3)
)
ONE = torch.zeros(3, dtype=torch.int64)


def rows(*features: tuple[float, ...]) -> Tensor:
    return torch.tensor(features, dtype=torch.float64)


def mad(
    potential: NetworkPotential, systems: Systems, frames: str | None = None, batch: int = 32
) -> list[LayerMad]:
    policy = potential.policy if frames is None else frame_policy(frames)
    return layer_mad(potential.model, systems, policy, batch=batch)


def numbers(layers: list[LayerMad]) -> np.ndarray:
    """(n_depths, 4) of features and updates; NaN for None."""
    columns = ("neighbors", "all_pairs", "update_neighbors", "update_all_pairs")
    return np.array([[getattr(one, name) for name in columns] for one in layers], dtype=float)


def test_right_and_opposite_angles_are_counted_by_hand() -> None:
    # distances 1, 1 and 2, whatever the lengths
    features = rows((2.0, 0.0), (0.0, 5.0), (-1.0, 0.0))
    assert mean_average_distance(features, ONE, 1).item() == pytest.approx(4 / 3, rel=1e-14)
    # the last is an atom's own image
    pairs = (torch.tensor([0, 1, 1, 2, 2]), torch.tensor([1, 0, 2, 1, 2]))
    assert mean_average_distance(features, ONE, 1, pairs).item() == pytest.approx(4 / 5, rel=1e-14)


def test_each_structure_has_its_own() -> None:
    features = rows((1.0, 0.0), (1.0, 1.0), (3.0, 0.0), (-1.0, 0.0), (0.0, 1.0))
    owner = torch.tensor([0, 0, 1, 1, 2])
    found = mean_average_distance(features, owner, 4)
    np.testing.assert_allclose(found[:2], [1 - math.sqrt(0.5), 2.0], rtol=1e-14)
    assert found[2:].isnan().all()  # one atom, and none
    pairs = (torch.tensor([2, 3]), torch.tensor([3, 2]))
    np.testing.assert_allclose(
        mean_average_distance(features, owner, 4, pairs), [math.nan, 2.0, math.nan, math.nan]
    )


def test_all_pairs_are_what_a_list_of_all_pairs_gives() -> None:
    features = torch.randn((20, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    owner = torch.tensor([0] * 12 + [1] * 8)
    first, second = torch.nonzero(
        (owner[:, None] == owner) & ~torch.eye(20, dtype=torch.bool), as_tuple=True
    )
    listed = mean_average_distance(features, owner, 2, (first, second))
    torch.testing.assert_close(
        mean_average_distance(features, owner, 2), listed, rtol=1e-12, atol=0.0
    )


def test_features_that_point_one_way_have_none() -> None:
    features = torch.arange(1.0, 4.0, dtype=torch.float64)[:, None] * rows((0.3, -0.7, 0.1))
    assert mean_average_distance(features, ONE, 1).item() == pytest.approx(0.0, abs=1e-15)
    pairs = (torch.tensor([0, 1]), torch.tensor([2, 0]))
    assert mean_average_distance(features, ONE, 1, pairs).item() == pytest.approx(0.0, abs=1e-15)


def test_a_feature_of_nothing_is_in_no_pair() -> None:
    features = rows((1.0, 0.0), (0.0, 0.0), (0.0, 2.0))
    pairs = (torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    assert (
        mean_average_distance(features, ONE, 1).item()
        == mean_average_distance(features, ONE, 1, pairs).item()
        == 1.0
    )
    assert mean_average_distance(torch.zeros_like(features), ONE, 1).isnan().all()


@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
def test_layers_are_the_features_from_which_the_energy_is_read(architecture: str) -> None:
    """There is one more than interactions, and the first depends on nothing but what an atom is."""
    potential = random_potential("none", architecture=architecture)
    layers = mad(potential, SLABS)
    assert [one.depth for one in layers] == [0, 1, 2]
    found = numbers(layers)
    assert np.isnan(found[0, 2:]).all()
    assert (found[0, :2] > 0.01).all()
    assert ((found[1:] > 1e-3) & (found[1:] < 2.0)).all()
    moved = numbers(
        mad(potential, systems_of(*[rattled(adslab(*s), 0.1, 9) for s in (("CO",), ("O",))]))
    )
    same = numbers(mad(potential, systems_of(adslab("CO"), adslab("O"))))
    np.testing.assert_allclose(moved[0, 1], same[0, 1], rtol=1e-12)
    assert abs(moved[2, 1] - same[2, 1]) > 1e-5


def test_layers_add_up_from_their_updates() -> None:
    """The features are those of the network's own pass: what enters the energy head is the last of
    them.
    """
    network = random_potential("none", skip_co="none").model.network
    seen: list[Tensor] = []
    network.energy.register_forward_hook(lambda module, given, told: seen.append(given[0]))
    kept: list[tuple[Tensor, ...]] = []
    network.register_forward_hook(lambda module, given, told: kept.append(told.layers))
    random = replace(random_potential("none"), policy=frame_policy("none"))
    random.model.network = network
    mad(random, SLABS)
    torch.testing.assert_close(kept[0][-1], seen[0], rtol=0.0, atol=0.0)


def test_order_batches_and_poses_leave_it() -> None:
    potential = random_potential("averaged")
    expected = numbers(mad(potential, SLABS))
    order = random_order(SLABS, torch.Generator().manual_seed(4))
    for systems, batch in ((reordered(SLABS, order), 32), (SLABS, 1)):
        np.testing.assert_allclose(
            numbers(mad(potential, systems, batch=batch)), expected, rtol=1e-10
        )
    singly = [numbers(mad(potential, single)) for single in singles(SLABS)]
    np.testing.assert_allclose(np.mean(singly, axis=0), expected, rtol=1e-10)


def test_several_frames_are_the_mean_over_them() -> None:
    """A molecule seen in its four poses weighs as much as a structure that is seen in one."""
    potential = random_potential("none")
    both = systems_of(rattled(adslab("O", size=(1, 2, 2))), cloud(5))
    # one pose of the slab, four of the molecule
    parts = [numbers(mad(potential, one, "single")) for one in singles(both)]
    np.testing.assert_allclose(
        numbers(mad(potential, both, "single")), np.mean(parts, axis=0), rtol=1e-10
    )
    assert not np.allclose(
        parts[1][1:], numbers(mad(potential, systems_of(cloud(5)), "none"))[1:], rtol=1e-6
    )


def test_a_larger_cell_of_the_same_crystal_has_the_same_neighbors() -> None:
    crystal = bulk("NaCl", "rocksalt", a=4.1)
    crystal.numbers[:] = (29, 8)
    small = systems_of(crystal)
    larger, _ = supercell(small, 2)
    potential = random_potential("none")
    found, again = numbers(mad(potential, small)), numbers(mad(potential, larger))
    np.testing.assert_allclose(again[:, ::2], found[:, ::2], rtol=1e-10)
    assert (again[:, 1] < found[:, 1] - 1e-3).all()  # of all pairs, half are now copies


def test_lonely_atoms_have_no_pairs_and_spoil_no_mean() -> None:
    potential = random_potential("none")
    atom, pair = Atoms("O"), Atoms("CO", positions=[(0.0, 0.0, 0.0), (0.0, 0.0, 1.2)])
    assert np.isnan(numbers(mad(potential, systems_of(atom)))).all()
    assert mad(potential, systems_of(atom))[1].all_pairs is None
    np.testing.assert_allclose(
        numbers(mad(potential, systems_of(atom, pair))),
        numbers(mad(potential, systems_of(pair))),
        rtol=1e-10,
    )


def test_atoms_out_of_sight_are_in_no_pair() -> None:
    potential = random_potential("none")
    slab = rattled(adslab("CO", size=(1, 2, 3)))
    potential.model.rewiring = Rewiring(drop_subsurface=True)
    rewired = numbers(mad(potential, systems_of(slab)))
    potential.model.rewiring = Rewiring()
    np.testing.assert_allclose(
        rewired, numbers(mad(potential, systems_of(slab[slab.get_tags() > 0]))), rtol=1e-10
    )


def test_networks_without_layers_and_empty_batches_are_refused() -> None:
    potential = random_potential("none")
    with pytest.raises(InputError, match="got an empty list of structures"):
        mad(potential, select(SLABS, SLABS, torch.tensor([False, False])))
    potential.model.network = Ensemble([random_network(seed) for seed in (0, 1)]).double()
    with pytest.raises(InputError, match="the network Ensemble gives no features by layer"):
        mad(potential, SLABS)
