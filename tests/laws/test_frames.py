"""Frames against the symmetries they claim, and the gradients that go through them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from helpers.posing import CUTOFF, energies_of, frames_of, mean_energies, seeded
from helpers.structures import adslab, cloud, rattled, systems_of, turned
from torch import Tensor

from geocalc.core.systems import Systems
from geocalc.frames import POLICIES, FramePick, FrameSource, frame_policy, random_rotations
from geocalc.graphs.neighbors import build_graph

EXACT = 1e-12

PCA = [
    name
    for name, policy in POLICIES.items()
    if policy.source in (FrameSource.POSITIONS, FrameSource.EDGES)
]
DETERMINISTIC = [
    name for name in (*PCA, "averaged", "single") if POLICIES[name].pick is not FramePick.STOCHASTIC
]
ALL = [name for name in DETERMINISTIC if POLICIES[name].pick is FramePick.ALL]


def lying(name: str) -> Atoms:
    """A molecule in a pose that is aligned with no axis."""
    atoms = molecule(name)
    atoms.rotate(37, (1.0, 2.0, 0.5))
    return atoms


def octahedron() -> Atoms:
    """SF6, lying askew: as symmetric as molecules get."""
    corners = 1.56 * np.concatenate([np.eye(3), -np.eye(3)])
    atoms = Atoms("SF6", positions=np.concatenate([np.zeros((1, 3)), corners]))
    atoms.rotate(37, (1.0, 2.0, 0.5))
    return atoms


STRUCTURES = {
    "cloud": cloud(),
    "CH4": lying("CH4"),
    "benzene": lying("C6H6"),
    "flat benzene": molecule("C6H6"),
    "H2O": lying("H2O"),
    "CO2": lying("CO2"),
    "upright CO": molecule("CO"),
    "NH3": lying("NH3"),
    "SF6": octahedron(),
    "atom": Atoms("He", positions=[(1.0, 2.0, 3.0)]),
    "on top": adslab("CO", "ontop"),
    "bridge": adslab("CO", "bridge"),
    "hollow": adslab("O", "fcc"),
    "clean": adslab(""),
    "square": adslab("CO", "hollow", square=True),
    "rattled": rattled(adslab("CO", "hcp")),
}


def group_elements(policy: str, n: int = 2) -> Tensor:
    """Random members of the group that the policy claims for a molecule or, turned about z, for a
    slab.
    """
    chosen = frame_policy(policy)
    flat = chosen.dimensions == 2 and chosen.source is not FrameSource.LATTICE
    return random_rotations(n, 2 if flat else 3, chosen.proper, seeded(11))


@pytest.mark.slow
@pytest.mark.parametrize("policy", DETERMINISTIC)
@pytest.mark.parametrize("name", STRUCTURES)
def test_poses_are_the_same_however_the_structure_is_turned_or_mirrored(
    name: str, policy: str
) -> None:
    systems = systems_of(STRUCTURES[name])
    expected = energies_of(systems, policy)
    for matrix in group_elements(policy):
        torch.testing.assert_close(
            energies_of(turned(systems, matrix), policy), expected, rtol=0, atol=EXACT
        )


@pytest.mark.parametrize("policy", ALL)
def test_the_average_over_all_frames_is_invariant_where_one_pose_is_not(policy: str) -> None:
    systems = systems_of(cloud(), rattled(adslab()), lying("CH4"))
    expected = mean_energies(systems, policy)
    for matrix in group_elements(policy):
        torch.testing.assert_close(
            mean_energies(turned(systems, matrix), policy), expected, rtol=0, atol=EXACT
        )
        moved = (
            mean_energies(turned(systems, matrix), "none") - mean_energies(systems, "none")
        ).abs()
        assert float(moved.min()) > 1e-4


@pytest.mark.parametrize(
    "policy", [name for name in DETERMINISTIC if name.endswith(("-se", "-se-one"))]
)
def test_proper_frames_are_rotations_and_tell_mirror_images_apart(policy: str) -> None:
    systems = systems_of(cloud())
    frames = frames_of(systems, policy)
    torch.testing.assert_close(
        torch.linalg.det(frames.rotations), torch.ones(len(frames.rotations), dtype=torch.float64)
    )
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    difference = energies_of(turned(systems, mirror), policy) - energies_of(systems, policy)
    assert float(difference.abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("policy", DETERMINISTIC)
@pytest.mark.parametrize("name", ["cloud", "CH4", "on top", "rattled"])
def test_poses_do_not_depend_on_origin_or_order(name: str, policy: str) -> None:
    atoms = STRUCTURES[name]
    expected = energies_of(systems_of(atoms), policy)
    moved = atoms.copy()
    moved.positions += (3.1, -20.7, 0.9)
    torch.testing.assert_close(energies_of(systems_of(moved), policy), expected, rtol=0, atol=EXACT)
    shuffled = atoms[np.random.default_rng(2).permutation(len(atoms))]
    torch.testing.assert_close(
        energies_of(systems_of(shuffled), policy), expected, rtol=0, atol=EXACT
    )


def rewrapped(atoms: Atoms) -> Atoms:
    """The same crystal with a third of the atoms stored in other periodic images."""
    images = np.random.default_rng(4).integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
    images[::3] = 0
    copy = atoms.copy()
    copy.positions += images @ atoms.cell.array
    return copy


@pytest.mark.parametrize(
    "policy", [p for p in DETERMINISTIC if POLICIES[p].source is not FrameSource.POSITIONS]
)
@pytest.mark.parametrize("name", ["on top", "rattled"])
def test_poses_do_not_depend_on_the_stored_images(name: str, policy: str) -> None:
    atoms = STRUCTURES[name]
    expected = energies_of(systems_of(atoms), policy)
    torch.testing.assert_close(
        energies_of(systems_of(rewrapped(atoms)), policy), expected, rtol=0, atol=EXACT
    )


@pytest.mark.parametrize("policy", ["averaged", "single"])
def test_a_wire_does_not_depend_on_the_stored_images(policy: str) -> None:
    wire = cloud()
    wire.cell, wire.pbc = [[6.0, 0, 0], [0, 0, 0], [0, 0, 0]], (True, False, False)
    expected = energies_of(systems_of(wire), policy)
    assert len(expected) == 8
    torch.testing.assert_close(
        energies_of(systems_of(rewrapped(wire)), policy), expected, rtol=0, atol=EXACT
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cloud", "CH4", "benzene", "CO2", "rattled", "clean"])
@pytest.mark.parametrize("policy", [name for name in POLICIES if name.endswith("-stochastic")])
def test_a_stochastic_frame_is_a_member_of_the_set_and_follows_the_seed(
    name: str, policy: str
) -> None:
    systems = systems_of(STRUCTURES[name])
    members = frames_of(systems, policy.removesuffix("-stochastic")).rotations
    drawn = [frames_of(systems, policy, seed).rotations for seed in range(12)]
    for rotation in drawn:
        assert rotation.shape == (1, 3, 3)
        assert float((members - rotation).abs().amax((1, 2)).min()) < EXACT
    assert len({tuple(r.flatten().tolist()) for r in drawn}) > 1 or len(members) == 1
    torch.testing.assert_close(frames_of(systems, policy, 5).rotations, drawn[5], rtol=0, atol=0)


@pytest.mark.parametrize("policy", DETERMINISTIC)
def test_a_batch_gives_the_frames_of_its_structures(policy: str) -> None:
    names = ["cloud", "on top", "atom", "CH4", "square", "CO2"]
    together = frames_of(systems_of(*[STRUCTURES[name] for name in names]), policy)
    alone = [frames_of(systems_of(STRUCTURES[name]), policy) for name in names]
    torch.testing.assert_close(
        together.rotations, torch.cat([f.rotations for f in alone]), rtol=0, atol=EXACT
    )
    assert together.system_idx.tolist() == [k for k, f in enumerate(alone) for _ in f.rotations]
    assert together.degenerate.tolist() == [bool(f.degenerate[0]) for f in alone]
    gram = together.rotations.transpose(1, 2) @ together.rotations
    torch.testing.assert_close(
        gram, torch.eye(3, dtype=torch.float64).expand_as(gram), rtol=0, atol=EXACT
    )


def energy_of_positions(systems: Systems, policy: str) -> tuple[object, Tensor]:
    """Frame-averaged energy as a function of positions for a fixed graph, and where to take its
    gradient.
    """
    graph = build_graph(systems, CUTOFF)

    def energy(positions: Tensor) -> Tensor:
        return mean_energies(replace(systems, positions=positions), policy, graph=graph)

    return energy, systems.positions.clone().requires_grad_()


GRADIENT_CASES = [(name, policy) for name in ("cloud", "H2O", "rattled pair") for policy in ALL]
GRADIENT_CASES += [(name, "pca-3d-one") for name in ("cloud", "H2O", "rattled pair")]
GRADIENT_CASES += [
    ("cloud", "pca-edges-3d-se-one"),
    ("cloud", "pca-2d-one"),
    ("rattled pair", "single"),
]
TIED_CASES = [(name, policy) for name in ("CH4", "CO2", "upright CO") for policy in ALL]
TIED_CASES += [("benzene", "pca-3d-se"), ("benzene", "pca-edges-2d")]


def small(name: str) -> Systems:
    """A structure with few atoms."""
    if name == "rattled pair":
        atoms = Atoms(
            "CuCuO", positions=[(0, 0, 5), (1.4, 1.2, 5.2), (0.3, 0.7, 6.6)], cell=(2.6, 3.1, 12)
        )
        atoms.pbc = (True, True, False)
        return systems_of(rattled(atoms, 0.1))
    return systems_of(cloud(5) if name == "cloud" else STRUCTURES[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "policy"), GRADIENT_CASES + TIED_CASES)
def test_the_gradient_goes_through_the_frame(name: str, policy: str) -> None:
    energy, positions = energy_of_positions(small(name), policy)
    assert torch.autograd.gradcheck(energy, positions, eps=1e-6, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("policy", ["pca-3d", "pca-edges-3d", "pca-2d-se"])
def test_the_second_gradient_goes_through_the_frame(policy: str) -> None:
    energy, positions = energy_of_positions(small("H2O"), policy)
    direction = torch.randn(positions.shape, generator=seeded(), dtype=torch.float64)

    def slope(at: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(energy(at).sum(), at, create_graph=True)
        return (grad * direction).sum()

    assert torch.autograd.gradcheck(slope, positions, eps=1e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("policy", ["averaged", "single", "pca-2d", "pca-edges-3d"])
@pytest.mark.parametrize("name", ["on top", "square"])
def test_the_frames_turn_with_strain(name: str, policy: str) -> None:
    systems = systems_of(rattled(STRUCTURES[name]))
    graph = build_graph(systems, CUTOFF)

    def energy(strain: Tensor) -> Tensor:
        deform = torch.eye(3, dtype=torch.float64) + strain
        return mean_energies(
            replace(systems, positions=systems.positions @ deform, cell=systems.cell @ deform),
            policy,
            graph=graph,
        )

    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(energy, strain, eps=1e-6, atol=1e-6, rtol=1e-6)
    (grad,) = torch.autograd.grad(energy(strain).sum(), strain)
    assert float(grad.abs().max()) > 1e-2
    # turning about z costs nothing
    torch.testing.assert_close(grad[0, 1], grad[1, 0], rtol=0, atol=1e-10)


def test_lattice_frames_follow_the_cell_gradient() -> None:
    systems = systems_of(adslab(), adslab(square=True))
    weights = torch.randn(3, 3, generator=seeded(), dtype=torch.float64)

    def tilt(cell: Tensor) -> Tensor:
        frames = frames_of(replace(systems, cell=cell), "averaged")
        return torch.sin(frames.rotations * weights).sum()

    assert torch.autograd.gradcheck(
        tilt, systems.cell.clone().requires_grad_(), eps=1e-7, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", DETERMINISTIC)
def test_forces_on_symmetric_structures_are_numbers_and_as_symmetric(policy: str) -> None:
    for name in ("CH4", "benzene", "H2O", "CO2", "atom", "on top", "upright CO", "SF6"):
        systems = systems_of(STRUCTURES[name])
        energy, positions = energy_of_positions(systems, policy)
        (grad,) = torch.autograd.grad(energy(positions).sum(), positions)
        assert bool(torch.isfinite(grad).all())
        torch.testing.assert_close(
            grad.sum(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-10
        )
        for matrix in group_elements(policy, 1):
            energy, positions = energy_of_positions(turned(systems, matrix), policy)
            (rotated,) = torch.autograd.grad(energy(positions).sum(), positions)
            torch.testing.assert_close(rotated, grad @ matrix, rtol=0, atol=1e-9)
