"""Policies, lattice frames, random frames and the cases where axes tie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111, molecule
from helpers.posing import CUTOFF, energies_of, frames_of, seeded
from helpers.structures import adslab, cloud, rattled, rotation_z, systems_of, turned

from geocalc.errors import InputError
from geocalc.frames import (
    POLICIES,
    FramePick,
    FramePolicy,
    FrameSource,
    frame_policy,
    lattice_frames,
    make_frames,
    random_rotations,
)
from geocalc.frames.axes import principal_axes
from geocalc.graphs.neighbors import build_graph, edge_vectors

EXACT = 1e-12


def lattice_of(
    cell: object, pbc: tuple[bool, bool, bool], pick: FramePick = FramePick.ALL
) -> torch.Tensor:
    """Rotations from the lattice of one cell."""
    return lattice_frames(
        torch.tensor(cell, dtype=torch.float64)[None], torch.tensor([pbc]), pick
    ).rotations


def same_set(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two sets of frames (n, 3, 3) hold the same frames."""
    if len(first) != len(second):
        return False
    distance = (first[:, None] - second[None]).abs().amax((2, 3))
    return bool((distance.min(0).values < EXACT).all() and (distance.min(1).values < EXACT).all())


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("none", FramePolicy(FrameSource.NONE, FramePick.ONE)),
        ("learned", FramePolicy(FrameSource.LEARNED, FramePick.ONE)),
        ("averaged", FramePolicy(FrameSource.LATTICE, FramePick.ALL)),
        ("stochastic", FramePolicy(FrameSource.LATTICE, FramePick.STOCHASTIC)),
        ("pca-2d", FramePolicy(FrameSource.POSITIONS, FramePick.ALL, 2, False)),
        ("pca-3d-se-one", FramePolicy(FrameSource.POSITIONS, FramePick.ONE, 3, True)),
        ("pca-edges-2d-stochastic", FramePolicy(FrameSource.EDGES, FramePick.STOCHASTIC, 2, False)),
        ("pca-edges-3d-se", FramePolicy(FrameSource.EDGES, FramePick.ALL, 3, True)),
        ("rotations-2d", FramePolicy(FrameSource.ROTATIONS, FramePick.STOCHASTIC, 2, False)),
        ("rotations-3d-se", FramePolicy(FrameSource.ROTATIONS, FramePick.STOCHASTIC, 3, True)),
    ],
)
def test_names_give_policies(name: str, policy: FramePolicy) -> None:
    assert frame_policy(name) == policy


def test_no_two_names_mean_the_same_policy() -> None:
    assert len(set(POLICIES.values())) == len(POLICIES) == 33


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("averagd", "averaged"), ("pca-3d-se-on", "pca-3d-se-one"), ("qqq", "rotations-2d")],
)
def test_an_unknown_name_lists_near_ones(wrong: str, near: str) -> None:
    with pytest.raises(InputError, match=f"{wrong}.*{near}"):
        frame_policy(wrong)


@pytest.mark.parametrize(
    ("field", "value"), [("dimensions", 4), ("reach", 0.0), ("reach", float("nan"))]
)
def test_a_policy_refuses_what_cannot_be_built(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        FramePolicy(FrameSource.POSITIONS, **{field: value})


@pytest.mark.parametrize("name", ["stochastic", "pca-3d-stochastic", "rotations-3d"])
def test_random_policies_need_a_generator(name: str) -> None:
    systems = systems_of(adslab())
    graph = build_graph(systems, CUTOFF)
    edge_vec = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    with pytest.raises(InputError, match="generator"):
        make_frames(
            systems.positions, systems.cell, systems, graph, edge_vec, frame_policy(name), None
        )


def test_none_leaves_the_pose() -> None:
    frames = frames_of(systems_of(cloud(), adslab()), "none")
    torch.testing.assert_close(
        frames.rotations, torch.eye(3, dtype=torch.float64).expand(2, 3, 3), rtol=0, atol=0
    )
    assert frames.system_idx.tolist() == [0, 1]
    assert not frames.degenerate.any()


# Lattice


@pytest.mark.parametrize(
    ("a", "b", "size"),
    [
        ((2.5, 0), (1.25, 2.5 * 3**0.5 / 2), 12),
        ((2.5, 0), (-1.25, 2.5 * 3**0.5 / 2), 12),
        ((2.5, 0), (0, 2.5), 8),
        ((2.5, 0), (2.5, 2.5), 8),
        ((2.5, 1), (2.5, -1), 4),
        ((2.5, 1.2), (2.5, -1.2), 4),
        ((2.5, 1.6), (2.5, -1.6), 8),
        ((2.5, 0), (0, 3.5), 4),
        ((2.5, 0), (0.7, 3.1), 4),
        ((2.5, 0), (40.7, 3.1), 4),
    ],
)
def test_sizes_of_lattice_sets(a: tuple[float, float], b: tuple[float, float], size: int) -> None:
    rotations = lattice_of([[*a, 0], [*b, 0], [0, 0, 20]], (True, True, False))
    assert len(rotations) == size
    assert int((torch.linalg.det(rotations) > 0).sum()) == size // 2
    torch.testing.assert_close(
        rotations[:, :, 2], torch.tensor([[0.0, 0, 1]], dtype=torch.float64).expand(size, 3)
    )


@pytest.mark.parametrize(
    "change",
    [[[1, 1], [0, 1]], [[2, 1], [1, 1]], [[0, 1], [1, 0]], [[-1, 0], [0, 1]], [[5, 2], [7, 3]]],
)
@pytest.mark.parametrize("third", [(0.0, 0.0, 20.0), (1.3, -2.0, 20.0), (0.4, 0.2, -20.0)])
def test_another_in_plane_basis_gives_the_same_set(
    change: list[list[int]], third: tuple[float, float, float]
) -> None:
    for atoms in (fcc111("Cu", (2, 2, 2), vacuum=8.0), adslab(square=True), adslab(size=(2, 3, 2))):
        cell = atoms.cell.array.copy()
        cell[2] = third
        other = cell.copy()
        other[:2] = np.array(change) @ cell[:2]
        assert same_set(
            lattice_of(cell, (True, True, False)), lattice_of(other, (True, True, True))
        )


def test_one_lattice_frame_puts_a_along_x_and_b_on_the_side_of_y() -> None:
    for sign, up in ((1.0, 1.0), (-1.0, 1.0), (1.0, -1.0)):  # the second and third are left-handed
        cell = (
            np.array([[2.5, 0.3, 0], [sign * 0.4, sign * 3.1, 0], [0.5, 0.2, up * 15.0]])
            @ rotation_z(0.7).numpy()
        )
        frames = lattice_of(cell, (True, True, False), FramePick.ONE)
        assert frames.shape == (1, 3, 3)
        pose = torch.tensor(cell) @ frames[0]
        assert float(pose[0, 0]) == pytest.approx(np.linalg.norm(cell[0]), abs=EXACT)
        assert abs(float(pose[0, 1])) < EXACT
        assert float(pose[1, 1]) > 0
        assert float(pose[2, 2]) == pytest.approx(15.0, abs=EXACT)


def test_a_missing_third_vector_stands_for_the_cross_product() -> None:
    plane = [[2.5, 0.3, 0], [0.4, 3.1, 0]]
    bare = lattice_of([*plane, [0, 0, 0]], (True, True, False))
    assert same_set(bare, lattice_of([*plane, [0, 0, 9]], (True, True, False)))


def test_the_slab_normal_may_be_any_cell_vector() -> None:
    cell = np.array([[2.5, 0, 0], [0, 0, 14.0], [0, 3.1, 0]])
    frames = lattice_of(cell, (True, False, True))
    assert same_set(frames, lattice_of(cell[[0, 2, 1]], (True, True, False)))
    torch.testing.assert_close(
        frames[:, :, 2], torch.tensor([[0.0, 0, 1]], dtype=torch.float64).expand(4, 3)
    )


@pytest.mark.parametrize(
    ("cell", "pbc", "message"),
    [
        (np.eye(3), (True, False, False), "pbc"),
        ([[1, 0, 0], [2, 0, 0], [0, 0, 1]], (True, True, False), "parallel or zero"),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 1]], (True, True, False), "parallel or zero"),
    ],
)
def test_cells_without_a_plane_lattice_are_refused(
    cell: object, pbc: tuple[bool, bool, bool], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lattice_of(np.array(cell, dtype=float), pbc)


def test_molecules_and_slabs_share_a_batch_under_lattice_policies() -> None:
    wire = cloud(seed=3)
    wire.cell, wire.pbc = [[5.0, 0, 0], [0, 0, 0], [0, 0, 0]], (True, False, False)
    parts = (molecule("H2O"), adslab(), molecule("CH4"), wire, adslab(square=True), Atoms("He"))
    frames = frames_of(systems_of(*parts), "averaged")
    assert torch.bincount(frames.system_idx).tolist() == [8, 12, 24, 8, 8, 8]
    assert frames.degenerate.tolist() == [False, False, True, False, False, False]
    expected = [
        ("pca-3d", 0),
        ("averaged", 1),
        ("pca-3d", 2),
        ("pca-edges-3d", 3),
        ("averaged", 4),
        ("pca-3d", 5),
    ]
    for policy, k in expected:
        alone = frames_of(systems_of(parts[k]), policy).rotations
        torch.testing.assert_close(
            frames.rotations[frames.system_idx == k], alone, rtol=0, atol=EXACT
        )
    for policy in ("single", "stochastic"):
        one = frames_of(systems_of(*parts), policy, seed=4)
        # `cell` averages where there is no plane lattice
        alike = [8, 1, 24, 8, 1, 8] if policy == "single" else [1] * 6
        assert torch.bincount(one.system_idx).tolist() == alike
        for rotation, owner in zip(one.rotations, one.system_idx, strict=True):
            members = frames.rotations[frames.system_idx == owner]
            assert float((members - rotation).abs().amax((1, 2)).min()) < EXACT


# Random rotations


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("proper", [True, False])
def test_random_rotations_are_uniform(dimensions: int, proper: bool) -> None:
    rotations = random_rotations(20000, dimensions, proper, seeded())
    torch.testing.assert_close(
        rotations @ rotations.transpose(1, 2),
        torch.eye(3, dtype=torch.float64).expand_as(rotations),
        rtol=0,
        atol=EXACT,
    )
    turned_over = float((torch.linalg.det(rotations) < 0).double().mean())
    assert turned_over == 0 if proper else abs(turned_over - 0.5) < 0.015
    if dimensions == 2:
        torch.testing.assert_close(
            rotations[:, 2], torch.tensor([[0.0, 0, 1]], dtype=torch.float64).expand(20000, 3)
        )
        rotations = rotations[:, :2, :2]
    # moments of one coordinate of a uniform unit vector: 1/d and 3/(d (d + 2)); angles drawn by
    # Euler fail them
    second, fourth = (rotations**2).mean(0), (rotations**4).mean(0)
    assert float((second - 1 / dimensions).abs().max()) < 0.012
    assert float((fourth - 3 / (dimensions * (dimensions + 2))).abs().max()) < 0.012
    assert float(rotations.mean(0).abs().max()) < 0.025


def test_random_frames_follow_the_seed() -> None:
    systems = systems_of(cloud(), adslab())
    for policy in ("rotations-2d", "rotations-3d"):
        first, again, other = (frames_of(systems, policy, seed).rotations for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first[0], first[1])


# Principal axes


@pytest.mark.parametrize(
    ("policy", "size"), [("pca-2d", 4), ("pca-2d-se", 2), ("pca-3d", 8), ("pca-3d-se", 4)]
)
def test_generic_structures_have_one_frame_for_each_choice_of_signs(policy: str, size: int) -> None:
    for name in (policy, policy.replace("pca", "pca-edges")):
        frames = frames_of(systems_of(cloud()), name)
        assert len(frames.rotations) == size
        assert not frames.degenerate.any()
        if "2d" in name:
            torch.testing.assert_close(
                frames.rotations[:, 2],
                torch.tensor([[0.0, 0, 1]], dtype=torch.float64).expand(size, 3),
            )


def test_axes_of_positions_are_ordered_by_extent() -> None:
    systems = systems_of(cloud())
    pose = (systems.positions - systems.positions.mean(0)) @ frames_of(
        systems, "pca-3d-one"
    ).rotations[0]
    covariance = pose.T @ pose
    torch.testing.assert_close(
        covariance, torch.diag(torch.diagonal(covariance)), rtol=0, atol=EXACT
    )
    assert torch.equal(
        torch.diagonal(covariance), torch.diagonal(covariance).sort(descending=True).values
    )
    assert bool(((pose**3).sum(0) > 0).all())


def test_the_last_axis_of_one_proper_frame_is_the_cross_product() -> None:
    for seed in range(8):
        systems = systems_of(cloud(seed=seed))
        rotation = frames_of(systems, "pca-3d-se-one").rotations[0]
        torch.testing.assert_close(
            torch.linalg.cross(rotation[:, 0], rotation[:, 1]), rotation[:, 2], rtol=0, atol=EXACT
        )
        pose = (systems.positions - systems.positions.mean(0)) @ rotation
        assert bool(((pose[:, :2] ** 3).sum(0) > 0).all())


def test_edges_with_one_element_still_have_a_preferred_end() -> None:
    """With equal atomic numbers their differences vanish; how crowded atoms are decides instead."""
    atoms = cloud()
    atoms.numbers[:] = 6
    for policy in ("pca-edges-3d-one", "pca-edges-2d-one"):
        systems = systems_of(atoms)
        expected = energies_of(systems, policy)
        mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
        torch.testing.assert_close(
            energies_of(turned(systems, mirror), policy), expected, rtol=0, atol=EXACT
        )


def test_a_two_fold_axis_leaves_signs_that_only_joint_moments_decide() -> None:
    half = cloud(5).positions + (2.0, 0.0, 0.0)
    atoms = Atoms("CHNOF" * 2, positions=np.concatenate([half, half * (-1, -1, 1)]))
    systems = systems_of(atoms)
    for policy in ("pca-3d-one", "pca-2d-one", "pca-edges-3d-one", "pca-edges-2d-one"):
        expected = energies_of(systems, policy)
        for matrix in random_rotations(6, 2, False, seeded(5)):
            torch.testing.assert_close(
                energies_of(turned(systems, matrix), policy), expected, rtol=0, atol=EXACT
            )


@pytest.mark.parametrize(
    ("atoms", "policy", "size", "degenerate"),
    [
        (molecule("CH4"), "pca-3d", 24, True),
        (molecule("CH4"), "pca-3d-se", 12, True),
        (molecule("C6H6"), "pca-3d", 24, True),
        (molecule("C6H6"), "pca-2d", 12, True),
        (molecule("H2O"), "pca-3d", 8, False),
        (molecule("CO2"), "pca-3d", 8, False),
        (molecule("CO2"), "pca-3d-se", 4, False),
        (molecule("CO"), "pca-2d", 4, False),
        (Atoms("He", positions=[(1, 2, 3)]), "pca-3d", 8, False),
        (Atoms(), "pca-3d", 8, False),
        (Atoms(), "pca-edges-2d-one", 4, False),
        (Atoms("He2", positions=[(0, 0, 0), (0, 0, 30)]), "pca-edges-3d", 8, False),
        (Atoms("Cu", cell=(2.5, 2.5, 9), pbc=(True, True, False)), "pca-3d", 8, True),
        (adslab("CO", "ontop"), "pca-edges-2d", 12, True),
        (adslab("CO", "ontop"), "pca-2d", 4, False),
    ],
)
def test_symmetric_and_small_structures(
    atoms: Atoms, policy: str, size: int, degenerate: bool
) -> None:
    frames = frames_of(systems_of(atoms), policy)
    assert len(frames.rotations) == size
    assert frames.degenerate.tolist() == [degenerate]
    # no direction is better than its opposite, so no vector may survive the average
    if len(atoms) == 1:
        torch.testing.assert_close(
            frames.rotations.mean(0), torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=0
        )


@pytest.mark.parametrize("numbers", [[8, 8, 1, 1], [1, 8, 1, 8]])
def test_a_tied_covariance_is_split_by_atomic_numbers(numbers: list[int]) -> None:
    """A square: four equal distances, two heavier corners facing each other or side by side."""
    square = Atoms(numbers, positions=[(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)])
    frames = frames_of(systems_of(square), "pca-2d")
    facing = numbers[0] == numbers[2]
    assert frames.degenerate.tolist() == [True]
    # side by side the weighted tensor is round too: anchors at corners
    assert len(frames.rotations) == (4 if facing else 8)


def test_a_tied_covariance_is_split_by_fourth_moments() -> None:
    """Two atoms far out along x, four nearer along y, scaled to the same second moment."""
    far, near = 2.0, 2.0**0.5
    positions = [(s * far, 0.1 * s, 0) for s in (1, -1)] + [
        (0.05 * k, s * near, 0) for s in (1, -1) for k in (-1, 1)
    ]
    points = np.array(positions) - np.mean(positions, axis=0)
    whiten = np.linalg.inv(np.linalg.cholesky(points[:, :2].T @ points[:, :2])).T
    points[:, :2] = points[:, :2] @ whiten
    frames = frames_of(systems_of(Atoms(["H"] * 6, positions=points)), "pca-2d")
    assert frames.degenerate.tolist() == [True]
    assert len(frames.rotations) == 4
    moved = points @ frames.rotations[0].numpy()
    fourth = (moved**2).sum(1) @ (moved[:, :1] * moved[:, :2])
    assert fourth[0] > 0.1
    assert abs(fourth[1]) < EXACT


def test_a_tie_that_opens_is_left_to_the_covariance() -> None:
    stretched = molecule("C6H6")
    for factor, degenerate in ((1 + 1e-4, True), (1 + 1e-2, False)):
        copy = stretched.copy()
        copy.positions[:, 0] *= factor
        frames = frames_of(systems_of(copy), "pca-3d")
        assert frames.degenerate.tolist() == [degenerate]
        if not degenerate:
            assert len(frames.rotations) == 8


def test_nearly_linear_molecules_keep_exact_frames() -> None:
    for bend in (1e-1, 1e-3, 1e-5, 1e-7, 1e-9):
        atoms = molecule("CO2")
        atoms.positions[0, 0] += bend
        systems = systems_of(atoms)
        expected = energies_of(systems, "pca-3d")
        for matrix in random_rotations(3, 3, False, seeded(1)):
            found = energies_of(turned(systems, matrix), "pca-3d")
            torch.testing.assert_close(found.mean(), expected.mean(), rtol=0, atol=EXACT)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_gradients_of_axes_are_right_and_finite_at_a_tie() -> None:
    floor = torch.tensor(1e-10, dtype=torch.float64)
    weights = torch.randn(3, 3, generator=seeded(), dtype=torch.float64)

    def function(raw: torch.Tensor) -> torch.Tensor:
        values, axes = principal_axes(raw + raw.T, floor)
        projector = axes[:, :1] @ axes[:, :1].T
        return (values * weights[0]).sum() + (projector * weights).sum()

    raw = torch.randn(3, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, raw)
    assert torch.autograd.gradgradcheck(function, raw)
    tied = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)).requires_grad_()
    (grad,) = torch.autograd.grad(function(tied), tied)
    assert bool(torch.isfinite(grad).all())
    assert float(grad.abs().max()) < 10


@pytest.mark.parametrize(
    "policy", ["averaged", "single", "pca-3d", "pca-edges-2d-one", "rotations-2d", "none"]
)
def test_frames_have_the_type_of_the_structures(policy: str) -> None:
    systems = systems_of(rattled(adslab()))
    graph = build_graph(systems, CUTOFF)
    edge_vec = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    frames = make_frames(
        systems.positions.float(),
        systems.cell.float(),
        systems,
        graph,
        edge_vec.float(),
        frame_policy(policy),
        seeded(),
    )
    assert frames.rotations.dtype == torch.float32
    assert frames.system_idx.dtype == torch.int64
    assert frames.degenerate.dtype == torch.bool
    gram = frames.rotations @ frames.rotations.transpose(1, 2)
    torch.testing.assert_close(gram, torch.eye(3).expand_as(gram), rtol=0, atol=1e-5)
