"""Canonicalizers against the symmetries that they claim, and beside the published ones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from helpers.models import random_potential
from helpers.posing import seeded
from helpers.structures import adslab, cloud, rattled, systems_of, turned
from helpers.tiers import tiered
from reference.published_canonicalizers import DGCNN, PointNet, SignNetMLP, SignNetVN, neighbors
from torch import Tensor, nn

from geocalc.core.systems import Systems
from geocalc.errors import InputError, RecipeError
from geocalc.frames import (
    POLICIES,
    Frames,
    FrameSource,
    frame_policy,
    make_frames,
    random_rotations,
)
from geocalc.frames.learned import (
    CANONICALIZERS,
    Canonicalizer,
    Geometry,
    PolicyFrames,
    build_canonicalizer,
)
from geocalc.frames.learned.environment import local_environment
from geocalc.frames.learned.signnet import environment_axes
from geocalc.graphs.neighbors import build_graph, edge_vectors
from geocalc.potentials.network import NetworkPotential
from geocalc.testing import (
    assert_basis_invariant,
    assert_batch_equals_singles,
    assert_deterministic,
    assert_forces_are_gradient,
    assert_permutation_equivariant,
    assert_reflection_invariant,
    assert_rewrap_invariant,
    assert_rotation_invariant,
    assert_smooth_at_cutoff,
    assert_stress_is_gradient,
    assert_supercell_extensive,
    assert_translation_invariant,
)

# eV; rounding is at 1e-13, and up to a thousand times more where a frame is all but degenerate
EXACT = 1e-9
CUTOFF = 4.2
NAMES = tuple(CANONICALIZERS)
COUNTS = {"signnet-mlp": 454, "signnet-vn": 2_620, "vn-pointnet": 1_310, "vn-dgcnn": 663_804}
PUBLISHED = {
    "signnet-mlp": SignNetMLP,
    "signnet-vn": SignNetVN,
    "vn-pointnet": PointNet,
    "vn-dgcnn": DGCNN,
}
GROUPS = [(dimensions, proper) for dimensions in (2, 3) for proper in (True, False)]


def lying(atoms: Atoms) -> Atoms:
    """A molecule in a pose that is aligned with no axis."""
    atoms.rotate(37, (1.0, 2.0, 0.5))
    return atoms


THIN = (2, 2, 2)
GENERIC = {
    "cloud": cloud(),
    "slab": rattled(adslab("CO", "bridge", size=THIN), 0.15),
    "square slab": rattled(adslab("CO", "hollow", size=THIN, square=True), 0.15, 3),
}
SYMMETRIC = {
    "CH4": lying(molecule("CH4")),
    "linear molecule": lying(molecule("CO2")),
    "atom": Atoms("O", positions=[(1.0, 2.0, 3.0)]),
    "hollow": adslab("O", "hcp", size=THIN),
    "clean": adslab("", size=THIN),
}
EVERY = {
    **GENERIC,
    **SYMMETRIC,
    "upright molecule": molecule("CO"),
    "water": lying(molecule("H2O")),
    "bridge": adslab("CO", "bridge", size=THIN),
}


def built(name: str, dimensions: int = 2, proper: bool = True, seed: int = 0) -> Canonicalizer:
    """A canonicalizer with random weights, small but for its shape."""
    settings = {"name": name, "dimensions": dimensions, "proper": proper} | (
        {"width": 12} if name == "vn-dgcnn" else {}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_canonicalizer(settings, CUTOFF)


@cache
def potential(
    name: str,
    dimensions: int,
    proper: bool,
    *,
    stress: bool = False,
    dtype: torch.dtype = torch.float64,
) -> NetworkPotential:
    """A network with random weights and this canonicalizer as a part of it."""
    plain = random_potential("averaged", stress=stress, cutoff=CUTOFF, num_interactions=1)
    plain.model.network.canonicalizer = built(name, dimensions, proper)
    plain.model.network.to(dtype).requires_grad_(False)
    return replace(plain, policy=frame_policy("learned"))


def axis(dimensions: int) -> str:
    return "z" if dimensions == 2 else "any"


LAWS = {
    "translation": lambda dimensions: assert_translation_invariant,
    "rotation": lambda dimensions: partial(assert_rotation_invariant, axis=axis(dimensions)),
    "permutation": lambda dimensions: assert_permutation_equivariant,
    "re-wrapping": lambda dimensions: assert_rewrap_invariant,
    "basis": lambda dimensions: assert_basis_invariant,
    "supercell": lambda dimensions: assert_supercell_extensive,
    "batch": lambda dimensions: assert_batch_equals_singles,
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("proper", [True, False])
@pytest.mark.parametrize("dimensions", tiered([2, 3], fast=[2]))
@pytest.mark.parametrize("name", NAMES)
def test_laws(name: str, dimensions: int, proper: bool, law: str) -> None:
    LAWS[law](dimensions)(
        potential(name, dimensions, proper), systems_of(*EVERY.values()), tolerance=EXACT
    )


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_mirror_images_have_one_energy_where_that_is_claimed(name: str, dimensions: int) -> None:
    everything = systems_of(*EVERY.values())
    assert_reflection_invariant(
        potential(name, dimensions, False), everything, axis=axis(dimensions), tolerance=EXACT
    )
    with pytest.raises(AssertionError, match="reflection"):
        assert_reflection_invariant(
            potential(name, dimensions, True), systems_of(*GENERIC.values()), axis=axis(dimensions)
        )


@pytest.mark.parametrize("name", NAMES)
def test_two_dimensions_turn_about_z_alone(name: str) -> None:
    with pytest.raises(AssertionError, match="rotation"):
        assert_rotation_invariant(potential(name, 2, True), systems_of(cloud()), tolerance=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize(("dimensions", "proper"), GROUPS)
@pytest.mark.parametrize("name", NAMES)
def test_forces_are_the_gradient_through_the_frame(
    name: str, dimensions: int, proper: bool
) -> None:
    structures = [rattled(cloud(9, seed), 0.1) for seed in range(3)] + [GENERIC["slab"]]
    law = potential(name, dimensions, proper)
    assert not law(systems_of(*structures)).frame_degenerate.any()
    assert_forces_are_gradient(law, systems_of(*structures), step=2e-5, n_directions=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stress_is_the_derivative_by_strain(name: str) -> None:
    assert_stress_is_gradient(
        potential(name, 2, True, stress=True),
        systems_of(GENERIC["slab"], SYMMETRIC["hollow"]),
        step=2e-5,
    )


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_smooth_where_an_edge_fades_out(name: str) -> None:
    law = potential(name, 3, True)
    assert law.model.network.canonicalizer.reach == 4.0
    assert_smooth_at_cutoff(law, systems_of(GENERIC["cloud"], GENERIC["slab"]), 4.0, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("dimensions", "proper"), GROUPS)
@pytest.mark.parametrize("name", NAMES)
def test_networks_in_single_precision_turn_structures_exactly_too(
    name: str, dimensions: int, proper: bool
) -> None:
    single = potential(name, dimensions, proper, dtype=torch.float32)
    assert_rotation_invariant(
        single, systems_of(*EVERY.values()), axis=axis(dimensions), tolerance=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_mode_of_the_network_and_chance_change_nothing(name: str) -> None:
    law = potential(name, 2, True)
    before = law(systems_of(*EVERY.values()))
    assert_deterministic(law, systems_of(*EVERY.values()))
    law.model.train()
    try:
        assert torch.equal(law(systems_of(*EVERY.values())).energy, before.energy)
    finally:
        law.model.eval()


@pytest.mark.parametrize(("dimensions", "proper"), GROUPS)
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_structures_are_flagged_and_have_finite_forces(
    name: str, dimensions: int, proper: bool
) -> None:
    prediction = potential(name, dimensions, proper)(
        systems_of(*SYMMETRIC.values(), *GENERIC.values())
    )
    assert prediction.frame_degenerate.tolist()[: len(SYMMETRIC)] == [True] * len(SYMMETRIC)
    assert not prediction.frame_degenerate[len(SYMMETRIC)]
    assert prediction.energy.isfinite().all()
    assert prediction.forces.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_planar_molecule_is_seen_from_both_sides(name: str) -> None:
    water = frames_of(built(name, 3, False), systems_of(molecule("H2O"), lying(molecule("H2CO"))))
    assert water.degenerate.all()
    chiral = frames_of(built(name, 3, True), systems_of(cloud()))
    assert len(chiral.rotations) == 1
    assert torch.linalg.det(chiral.rotations).item() == pytest.approx(1)


@pytest.mark.parametrize(("dimensions", "proper"), GROUPS)
@pytest.mark.parametrize("name", NAMES)
def test_frames_turn_with_the_structure(name: str, dimensions: int, proper: bool) -> None:
    matrix = random_rotations(1, dimensions, proper, seeded(3))[0]
    frames, along = (
        frames_of(built(name, dimensions, proper), one)
        for one in (chosen(), turned(chosen(), matrix))
    )
    assert not frames.degenerate.any()
    gram = frames.rotations.transpose(1, 2) @ frames.rotations
    torch.testing.assert_close(
        gram, torch.eye(3, dtype=torch.float64).expand_as(gram), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(along.rotations, matrix.T @ frames.rotations, rtol=0, atol=EXACT)
    assert (frames.rotations[:, 2, 2] == 1).all() or dimensions == 3


@pytest.mark.parametrize(
    "policy",
    [name for name, policy in POLICIES.items() if policy.source is not FrameSource.LEARNED],
)
def test_every_frame_policy_is_a_canonicalizer(policy: str) -> None:
    g = geometry_of(systems_of(GENERIC["cloud"], GENERIC["slab"]))
    as_module = PolicyFrames(frame_policy(policy))
    assert not list(as_module.parameters())
    found = as_module(g, seeded(5))
    expected = make_frames(
        g.positions, g.cell, g.systems, g.graph, g.edge_vec, frame_policy(policy), seeded(5)
    )
    assert torch.equal(found.rotations, expected.rotations)
    assert torch.equal(found.degenerate, expected.degenerate)


def test_the_network_decides_and_every_weight_counts() -> None:
    for name in NAMES:
        module = built(name, 2, False)
        frames = frames_of(module, chosen())
        other = frames_of(built(name, 2, False, seed=1), chosen())
        assert not torch.allclose(frames.rotations, other.rotations, atol=1e-3)
        (
            frames.rotations
            * torch.randn(frames.rotations.shape, generator=seeded(), dtype=torch.float64)
        ).sum().backward()
        silent = [
            key
            for key, weight in module.named_parameters()
            if weight.grad is None or not weight.grad.abs().max() > 0
        ]
        assert silent == []


def test_names_that_nothing_has_are_answered_with_near_ones() -> None:
    with pytest.raises(
        InputError,
        match="no canonicalizer with weights is called 'signet-mlp'; did you mean `signnet-mlp`",
    ):
        build_canonicalizer({"name": "signet-mlp"}, CUTOFF)
    with pytest.raises(RecipeError, match="unknown key `widht`; did you mean `width`"):
        build_canonicalizer({"name": "vn-dgcnn", "widht": 3}, CUTOFF)
    with pytest.raises(RecipeError, match="`dimensions` is 4"):
        build_canonicalizer({"name": "vn-dgcnn", "dimensions": 4}, CUTOFF)


def test_learned_frames_without_a_canonicalizer_are_refused() -> None:
    with pytest.raises(
        InputError,
        match=(
            "this network has no canonicalizer, so it has no learned frames; use `averaged` or"
            " `single`"
        ),
    ):
        random_potential("learned")
    g = geometry_of(systems_of(cloud()))
    with pytest.raises(InputError, match="got the frame policy `learned`, whose frames only"):
        make_frames(g.positions, g.cell, g.systems, g.graph, g.edge_vec, frame_policy("learned"))


# Beside the published canonicalizers


@pytest.mark.parametrize("name", NAMES)
def test_default_settings_have_the_published_number_of_parameters(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        assert (
            n_parameters(build_canonicalizer({"name": name}, CUTOFF))
            == COUNTS[name]
            == n_parameters(PUBLISHED[name]())
        )


def test_published_frames_were_applied_transposed() -> None:
    points, matrix, network = (
        points_of(GENERIC["cloud"]),
        random_rotations(1, 3, True, seeded())[0],
        published(PointNet),
    )
    rows, along = network(points), network(points @ matrix)
    # coordinates along the rows
    torch.testing.assert_close(points @ matrix @ along.T, points @ rows.T, rtol=0, atol=1e-10)
    # Angstrom; what was computed
    assert (points @ matrix @ along - points @ rows).abs().max() > 0.5
    ours = frames_of(built("vn-pointnet", 3), systems_of(GENERIC["cloud"])).rotations[0]
    along = frames_of(
        built("vn-pointnet", 3), turned(systems_of(GENERIC["cloud"]), matrix)
    ).rotations[0]
    torch.testing.assert_close(points @ matrix @ along, points @ ours, rtol=0, atol=1e-10)


def test_published_neighbors_were_the_farthest() -> None:
    points = points_of(cloud(9))
    distances = torch.cdist(points, points)
    order = distances.argsort(dim=1)
    assert [set(found) for found in neighbors(points, 3).tolist()] == [
        set(far) for far in order[:, -3:].tolist()
    ]
    alone = systems_of(GENERIC["cloud"])
    beside = systems_of(GENERIC["cloud"] + Atoms("O", positions=[(30.0, 1.0, 2.0)]))
    torch.testing.assert_close(
        *(frames_of(built("vn-pointnet", 3), one).rotations for one in (alone, beside)),
        rtol=0,
        atol=1e-12,
    )
    network = published(PointNet)
    assert (network(points_of(GENERIC["cloud"])) - network(beside.positions)).abs().max() > 0.1


def test_published_dgcnn_did_not_turn() -> None:
    points, matrix, network = (
        points_of(cloud(9)),
        random_rotations(1, 3, True, seeded())[0],
        published(DGCNN),
    )
    # a frame would be turned along
    torch.testing.assert_close(network(points @ matrix), network(points), rtol=0, atol=1e-9)
    ours = built("vn-dgcnn", 3)
    frame, along = (
        frames_of(ours, one).rotations
        for one in (systems_of(cloud(9)), turned(systems_of(cloud(9)), matrix))
    )
    torch.testing.assert_close(along, matrix.T @ frame, rtol=0, atol=1e-10)
    assert (along - frame).abs().max() > 0.1


def test_published_frames_were_random_as_dropout_and_batch_statistics_stayed_on() -> None:
    points = points_of(GENERIC["cloud"])
    network = published(PointNet).train()
    assert (network(points) - network(points)).abs().max() > 0.1
    ours = built("vn-pointnet", 3)
    frames = [
        frames_of(module, systems_of(GENERIC["cloud"])).rotations
        for module in (ours.train(), ours.train(), ours.eval())
    ]
    assert torch.equal(frames[0], frames[1])
    assert torch.equal(frames[0], frames[2])


def test_published_signnet_depended_on_signs_and_did_not_turn() -> None:
    points, matrix, network = (
        points_of(GENERIC["cloud"]),
        random_rotations(1, 3, True, seeded())[0],
        published(SignNetMLP),
    )
    axes = torch.linalg.eigh((points - points.mean(0)).T @ (points - points.mean(0))).eigenvectors
    flip = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    assert (network(-axes) - network(axes)).abs().max() < 1e-12  # all signs at once
    assert (network(axes @ flip) - network(axes)).abs().max() > 0.05
    assert (network(matrix.T @ axes) @ matrix - network(axes)).abs().max() > 0.05
    assert (network(matrix.T @ axes) @ matrix.T - network(axes)).abs().max() > 0.05


@pytest.mark.parametrize("name", ["signnet-mlp", "signnet-vn"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_signs_of_axes_change_nothing_in_ours(name: str, dimensions: int) -> None:
    module, geometry = built(name, dimensions), geometry_of(chosen())
    near = local_environment(geometry, 4.0)
    axes, tied = environment_axes(near, dimensions)
    assert not tied.any()
    expected = module.vectors(near, axes)
    assert (expected.abs().amax((0, 1)) > 1e-3).all()
    for signs in np.array(np.meshgrid([1.0, -1.0], [1.0, -1.0], [1.0, -1.0])).reshape(3, -1).T:
        found = module.vectors(near, axes * torch.from_numpy(signs))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_published_weights_were_drawn_anew_and_ours_are_part_of_the_network() -> None:
    points = points_of(GENERIC["cloud"])
    first, second = published(PointNet, seed=0)(points), published(PointNet, seed=1)(points)
    assert (first - second).abs().max() > 0.1
    law = potential("vn-pointnet", 3, True)
    stored = {
        key: value
        for key, value in law.model.network.state_dict().items()
        if key.startswith("canonicalizer.")
    }
    assert sum(value.numel() for value in stored.values()) == COUNTS["vn-pointnet"]
    other = built("vn-pointnet", 3, seed=5).double()
    other.load_state_dict(
        {key.removeprefix("canonicalizer."): value for key, value in stored.items()}
    )
    frames = [
        frames_of(module, systems_of(GENERIC["cloud"]))
        for module in (other, law.model.network.canonicalizer)
    ]
    assert torch.equal(frames[0].rotations, frames[1].rotations)


def test_published_two_dimensional_canonicalizers_turned_in_three() -> None:
    height = points_of(GENERIC["slab"])[:, 2]
    pose = points_of(GENERIC["slab"]) @ published(PointNet)(points_of(GENERIC["slab"])).T
    assert (pose[:, 2] - height).abs().max() > 0.5
    ours = frames_of(built("vn-pointnet", 2), systems_of(GENERIC["slab"])).rotations
    assert torch.equal((points_of(GENERIC["slab"]) @ ours[0])[:, 2], height)


def chosen() -> Systems:
    """Structures without symmetry."""
    return systems_of(*(rattled(cloud(9, seed), 0.1) for seed in range(3)), GENERIC["slab"])


def geometry_of(systems: Systems) -> Geometry:
    graph = build_graph(systems, CUTOFF)
    edge_vec = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    return Geometry(
        positions=systems.positions,
        cell=systems.cell,
        systems=systems,
        graph=graph,
        edge_vec=edge_vec,
    )


def frames_of(module: Canonicalizer, systems: Systems) -> Frames:
    return module(geometry_of(systems))


def points_of(atoms: Atoms) -> Tensor:
    return torch.from_numpy(atoms.positions.copy())


def published(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A published network in float64 and evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind().double().eval()


def n_parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
