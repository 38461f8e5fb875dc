"""NetworkPotential: what it refuses, what it accepts at the edges, and what each field of a
prediction is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from helpers.models import REFERENCES, random_network, random_potential
from helpers.structures import adslab, cloud, rattled, systems_of

from geocalc.core.systems import Systems, concatenate, select
from geocalc.errors import InputError
from geocalc.frames import frame_policy
from geocalc.graphs.neighbors import build_graph, edge_vectors
from geocalc.potentials.network import EnergyModel, ForceMode, NetworkPotential, Scales

EXACT = 1e-12
ALONE = Atoms("O", positions=[(1, 2, 3)])
APART = Atoms("HO", positions=[(0, 0, 0), (30, 0, 0)])
SPARSE = Atoms("Cu", cell=(20, 20, 20), pbc=True)


def with_field(systems: Systems, name: str, value: int) -> Systems:
    values = getattr(systems, name).clone()
    values[-1] = value
    return replace(systems, **{name: values})


@pytest.mark.parametrize("policy", ["averaged", "single", "none", "pca-3d", "pca-edges-2d-one"])
@pytest.mark.parametrize("mode", list(ForceMode))
def test_a_batch_without_edges_has_energies_and_no_forces(policy: str, mode: ForceMode) -> None:
    stress = mode is ForceMode.GRADIENT
    potential = random_potential(
        policy, force_mode=mode, stress=stress, direct_forces=True, repulsion_reach=0.8
    )
    found = potential(systems_of(ALONE, APART, SPARSE))
    assert bool(found.energy.isfinite().all())
    if mode is ForceMode.GRADIENT:
        torch.testing.assert_close(
            found.forces, torch.zeros(4, 3, dtype=torch.float64), rtol=0, atol=0
        )
        assert found.stress is not None
        torch.testing.assert_close(
            found.stress[2], torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=0
        )
    assert (found.forces is None) == (mode is ForceMode.NONE)


def test_an_atom_alone_feels_no_direct_force() -> None:
    potential = random_potential(force_mode=ForceMode.DIRECT, direct_forces=True)
    torch.testing.assert_close(
        potential(systems_of(ALONE)).forces,
        torch.zeros(1, 3, dtype=torch.float64),
        rtol=0,
        atol=EXACT,
    )


def test_stress_is_not_a_number_where_there_is_no_volume() -> None:
    found = random_potential(stress=True)(systems_of(cloud(), adslab("O", size=(1, 1, 2))))
    assert found.stress is not None
    assert bool(found.stress[0].isnan().all())
    assert bool(found.stress[1].isfinite().all())


@pytest.mark.parametrize("number", [0, 86, 119, -1])
def test_an_atomic_number_beyond_the_table_is_refused(number: int) -> None:
    potential = random_potential(n_elements=86)
    with pytest.raises(InputError, match=f"atomic number {number}; this model has numbers 1 to 85"):
        potential(with_field(systems_of(adslab()), "numbers", number))


def test_an_element_the_model_was_not_trained_on_is_named() -> None:
    potential = replace(random_potential(), elements=(1, 6, 8, 29))
    with pytest.raises(
        InputError, match="contains Au, which this model was not trained on; it knows H C O Cu"
    ):
        potential(with_field(systems_of(adslab()), "numbers", 79))
    with pytest.raises(InputError, match="contains Z=130, which"):
        potential(with_field(systems_of(adslab()), "numbers", 130))


@pytest.mark.parametrize("tag", [-1, 3])
def test_tags_of_another_convention_are_refused_where_tags_are_read(tag: int) -> None:
    systems = with_field(systems_of(adslab()), "tags", tag)
    potential = random_potential()
    with pytest.raises(InputError, match=rf"tags must be 0 .* or 2 \(adsorbate\), got \[.*{tag}"):
        potential(systems)
    model = EnergyModel(potential.model.network, scales(), None, reads_tags=False)
    blind = replace(potential, model=model)
    assert torch.equal(blind(systems).energy, blind(systems_of(adslab())).energy)


def scales() -> Scales:
    return Scales(energy=1.0, forces=1.0, references=torch.zeros(1, 119, dtype=torch.float64))


def test_no_structure_and_a_structure_without_atoms_are_refused() -> None:
    potential = random_potential()
    slab = systems_of(adslab())
    with pytest.raises(InputError, match="got an empty list of structures"):
        potential(select(slab, slab, torch.tensor([False])))
    with pytest.raises(InputError, match="structure 1 of the batch has no atoms; remove it"):
        potential(concatenate([slab, systems_of(Atoms()), slab]))


@pytest.mark.parametrize("policy", ["stochastic", "pca-3d-stochastic", "rotations-2d"])
def test_random_frames_need_a_seed_and_repeat_with_it(policy: str) -> None:
    chosen = random_potential("averaged")
    with pytest.raises(InputError, match="draws frames at random and needs a seed"):
        replace(chosen, policy=frame_policy(policy))
    systems = systems_of(rattled(adslab()), cloud())
    seeded = [replace(chosen, policy=frame_policy(policy), seed=seed) for seed in range(6)]
    energies = torch.stack([potential(systems).energy for potential in seeded])
    assert torch.equal(energies[3], seeded[3](systems).energy)
    assert bool((energies.std(0) > 1e-4).all())


def test_stress_needs_gradient_forces() -> None:
    with pytest.raises(InputError, match=r"stress .* needs gradient forces"):
        random_potential(force_mode=ForceMode.DIRECT, stress=True, direct_forces=True)


def test_references_are_added_for_every_atom() -> None:
    network, policy = random_network().double(), frame_policy("single")
    models = [
        EnergyModel(network, units, None)
        for units in (replace(scales(), references=references()), scales())
    ]
    shifted, plain = (
        NetworkPotential(model=model, policy=policy)(systems_of(adslab("CO"))) for model in models
    )
    expected = REFERENCES[6] + REFERENCES[8] + 12 * REFERENCES[29]
    torch.testing.assert_close(
        shifted.energy - plain.energy,
        torch.tensor([expected], dtype=torch.float64),
        rtol=0,
        atol=1e-10,
    )
    torch.testing.assert_close(shifted.forces, plain.forces, rtol=0, atol=EXACT)


def references() -> torch.Tensor:
    values = torch.zeros(1, 119, dtype=torch.float64)
    for number, energy in REFERENCES.items():
        values[0, number] = energy
    return values


def test_energy_and_its_spread_are_those_of_single_frames() -> None:
    systems = systems_of(rattled(adslab("CO", size=(2, 2, 2))))
    averaged = random_potential("averaged")
    found = averaged(systems)
    energies = torch.cat(
        [
            replace(averaged, policy=frame_policy("stochastic"), seed=s)(systems).energy
            for s in range(90)
        ]
    )
    distinct = torch.tensor(
        sorted({round(energy, 9) for energy in energies.tolist()}), dtype=torch.float64
    )
    assert len(distinct) == 12
    torch.testing.assert_close(distinct.mean()[None], found.energy, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        distinct.std(correction=0)[None], found.energy_std, rtol=0, atol=1e-8
    )


def test_repulsion_keeps_overlapping_atoms_apart() -> None:
    close, closer = (systems_of(Atoms("CuO", positions=[(0, 0, 0), (0, 0, d)])) for d in (0.7, 0.6))
    bare, held = random_potential(), random_potential(repulsion_reach=0.8)
    gain = [float(held(s).energy - bare(s).energy) for s in (close, closer)]
    assert gain[1] > gain[0] > 1.0
    extra = held(close).forces - bare(close).forces
    assert float(extra[1, 2]) > 1.0
    np.testing.assert_allclose(extra.sum(0).numpy(), np.zeros(3), atol=1e-10)


def test_repulsion_of_the_pairs_that_feel_it_is_that_of_all() -> None:
    held, bare = (
        random_potential("none", architecture="schnet", repulsion_reach=reach)
        for reach in (1.1, None)
    )
    systems = systems_of(rattled(adslab("CO", size=(2, 2, 2)), 0.2))
    graph = build_graph(systems, held.model.network.cutoff)
    length = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph).norm(dim=1)
    i, j = systems.numbers[graph.receivers], systems.numbers[graph.senders]
    every = held.model.repulsion(length, i, j)
    assert 0 < int((every > 0).sum()) < graph.n_edges
    assert float(held(systems).energy - bare(systems).energy) == pytest.approx(
        float(every.sum()), abs=1e-10
    )


def test_a_prediction_keeps_no_history() -> None:
    found = random_potential(stress=True, direct_forces=True)(systems_of(adslab()))
    values = [value for value in vars(found).values() if value is not None]
    assert len(values) >= 6
    assert not any(value.requires_grad for value in values)
