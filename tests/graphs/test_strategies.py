"""Graph strategies: what they connect, against counting by hand, and the laws that potentials on
them obey.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc100, fcc111
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list
from helpers.models import random_potential
from helpers.structures import adslab, cloud, rattled, systems_of
from helpers.training import make_recipe, recipe_values, relaxations, weights_after, write_data

from geocalc.core.systems import Systems, concatenate
from geocalc.errors import InputError, RecipeError
from geocalc.graphs.neighbors import Graph, build_graph, edge_vectors
from geocalc.graphs.strategies import (
    GraphSettings,
    Strategy,
    edge_weights,
    estimate_edges,
    graph_builder,
    make_graph,
)
from geocalc.graphs.truncation import EDGE, SHELL, TIE_TOLERANCE, Truncation
from geocalc.potentials.card import ModelCard
from geocalc.potentials.network import NetworkPotential
from geocalc.testing import (
    assert_basis_invariant,
    assert_batch_equals_singles,
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
from geocalc.train.recipe import parse_recipe


def sparse(pbc: tuple[bool, bool, bool]) -> Atoms:
    """Ten random atoms in a skewed cell."""
    rng = np.random.default_rng(3)
    cell = [[6.0, 0.4, 0.0], [-1.0, 5.5, 0.3], [0.5, 0.0, 7.0]]
    return Atoms(
        rng.choice([1, 6, 8], 10),
        scaled_positions=rng.uniform(-0.6, 1.4, (10, 3)),
        cell=cell,
        pbc=pbc,
    )


STRUCTURES = {
    "square lattice": fcc100("Cu", (2, 2, 2), vacuum=6.0),
    "fcc111": fcc111("Cu", (2, 2, 3), vacuum=6.0),
    "fcc bulk": bulk("Cu", cubic=True),
    "adslab": rattled(adslab("CO")),
    "cloud": cloud(9),
    "skewed": sparse((True, True, True)),
    "mixed": sparse((True, False, True)),
    "wire": sparse((False, True, False)),
}
PER_ATOM, SYMMETRIC, SMOOTH = Truncation
RADIUS, NEAREST, COMPLETE = Strategy


def settings(strategy: str = "radius", truncation: str = "per-atom") -> GraphSettings:
    return GraphSettings(strategy=Strategy(strategy), truncation=Truncation(truncation))


def edge_list(graph: Graph) -> list[tuple[int, ...]]:
    shifts = graph.shifts.to(torch.int64)
    return list(
        zip(graph.receivers.tolist(), graph.senders.tolist(), *shifts.T.tolist(), strict=True)
    )


def reversed_edges(graph: Graph) -> list[tuple[int, ...]]:
    return [(j, i, -a, -b, -c) for i, j, a, b, c in edge_list(graph)]


def weights_of(systems: Systems, graph: Graph) -> torch.Tensor | None:
    vec = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    return edge_weights(systems.positions, systems.cell, systems.system_idx, graph, vec)


def by_hand(atoms: Atoms, n: int, reach: float) -> dict[int, list[tuple[float, tuple[int, ...]]]]:
    """All neighbors of each atom within `reach`, nearest first, by ASE."""
    found: dict[int, list[tuple[float, tuple[int, ...]]]] = {k: [] for k in range(len(atoms))}
    for i, j, shift, d in zip(*neighbor_list("ijSd", atoms, reach), strict=True):
        found[int(i)].append((float(d), (int(i), int(j), *map(int, shift))))
    return {k: sorted(several) for k, several in found.items()}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("truncation", [SYMMETRIC, SMOOTH])
@pytest.mark.parametrize("strategy", [RADIUS, NEAREST])
@pytest.mark.parametrize("n", [3, 7])
def test_graphs_that_should_be_are_symmetric(
    name: str, truncation: Truncation, strategy: Strategy, n: int
) -> None:
    systems = systems_of(STRUCTURES[name])
    graph = make_graph(systems, 4.5, n, GraphSettings(strategy=strategy, truncation=truncation))
    assert graph.n_edges > 0
    assert sorted(edge_list(graph)) == sorted(reversed_edges(graph))
    assert bool((graph.receivers.diff() >= 0).all())
    weights = weights_of(systems, graph)
    if truncation is SMOOTH:
        assert weights is not None
        by_edge = dict(zip(edge_list(graph), weights.tolist(), strict=True))
        there_and_back = [
            (by_edge[edge], by_edge[back])
            for edge, back in zip(by_edge, reversed_edges(graph), strict=True)
        ]
        assert max(abs(a - b) for a, b in there_and_back) < 1e-12
        assert 0 < min(by_edge.values()) <= max(by_edge.values()) <= 1


def test_truncation_of_each_atom_is_not_symmetric_and_the_union_is_its_closure() -> None:
    systems = systems_of(STRUCTURES["adslab"])
    plain, both = (
        make_graph(systems, 4.5, 5, settings("radius", name)) for name in ("per-atom", "symmetric")
    )
    assert sorted(edge_list(plain)) != sorted(reversed_edges(plain))
    assert sorted(edge_list(both)) == sorted(set(edge_list(plain)) | set(reversed_edges(plain)))
    full = build_graph(systems, 4.5)
    assert (plain.n_truncated, both.n_truncated) == (
        full.n_edges - plain.n_edges,
        full.n_edges - both.n_edges,
    )


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("n", [1, 4, 9, 20])
def test_nearest_neighbors_are_those_found_by_hand(name: str, n: int) -> None:
    atoms = STRUCTURES[name]
    # a cutoff that would leave nothing
    graph = make_graph(systems_of(atoms), 0.5, n, settings("nearest"))
    expected = []
    for near in by_hand(atoms, n, 14.0).values():
        limit = near[n - 1][0] + TIE_TOLERANCE if len(near) >= n else np.inf
        expected += [edge for d, edge in near if d <= limit]
    assert sorted(edge_list(graph)) == sorted(expected)
    assert graph.n_truncated == 0
    everything = len(atoms) * (len(atoms) - 1)
    assert graph.n_edges >= (
        min(everything, len(atoms) * n) if not atoms.pbc.any() else len(atoms) * n
    )


def test_perfect_crystals_keep_whole_shells() -> None:
    systems = systems_of(bulk("Cu"))
    assert [
        make_graph(systems, 1.0, n, settings("nearest")).n_edges for n in (1, 12, 13, 18, 19)
    ] == [12, 12, 18, 18, 42]


@pytest.mark.parametrize("name", STRUCTURES)
def test_complete_graphs_have_every_pair_at_its_nearest_images(name: str) -> None:
    atoms = STRUCTURES[name]
    systems = systems_of(atoms)
    graph = make_graph(systems, 1.0, None, settings("complete"))
    lengths = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph).norm(dim=1)
    wanted = get_distances(atoms.positions, cell=atoms.cell, pbc=atoms.pbc)[1]
    i, j = graph.receivers.numpy(), graph.senders.numpy()
    assert np.abs(lengths.numpy() - wanted[i, j]).max() < 2 * TIE_TOLERANCE
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(
        itertools.permutations(range(len(atoms)), 2)
    )
    images = [range(-2, 3) if periodic else (0,) for periodic in atoms.pbc]
    offsets = np.array(list(itertools.product(*images))) @ np.array(atoms.cell)
    wrapped = (
        atoms.get_positions(wrap=True, pretty_translation=False, eps=0)
        if atoms.pbc.any()
        else atoms.positions
    )
    ways = wrapped[None] - wrapped[:, None]
    every = np.sqrt(((ways[:, :, None] + offsets) ** 2).sum(-1))
    n_ties = (every <= every.min(axis=2, keepdims=True) + TIE_TOLERANCE).sum(axis=2)
    np.fill_diagonal(n_ties, 0)
    assert graph.n_edges == n_ties.sum()
    assert sorted(edge_list(graph)) == sorted(reversed_edges(graph))


def test_the_strategies_of_a_batch_are_those_of_its_members() -> None:
    members = [systems_of(STRUCTURES[name]) for name in ("fcc111", "cloud", "mixed")]
    for which, n in (
        (settings(), 5),
        (settings("radius", "smooth"), 5),
        (settings("nearest", "smooth"), 5),
        (settings("complete"), None),
    ):
        graph, expected, weights, start = make_graph(concatenate(members), 4.0, n, which), [], [], 0
        for systems in members:
            one = make_graph(systems, 4.0, n, which)
            expected += [(i + start, j + start, *s) for i, j, *s in edge_list(one)]
            weights.append(weights_of(systems, one))
            start += systems.n_atoms
        assert edge_list(graph) == expected
        if which.truncation is SMOOTH:
            joined = weights_of(concatenate(members), graph)
            torch.testing.assert_close(
                joined, torch.cat([w for w in weights if w is not None]), rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("truncation", Truncation)
def test_kept_lists_give_the_graphs_of_searches(truncation: Truncation) -> None:
    which = GraphSettings(truncation=truncation)
    maker, systems = (
        graph_builder(4.0, 6, which),
        systems_of(STRUCTURES["adslab"], STRUCTURES["cloud"]),
    )
    for _ in range(4):
        systems = replace(
            systems, positions=systems.positions + 0.03 * torch.sin(17 * systems.positions)
        )
        kept, searched = maker(systems), make_graph(systems, 4.0, 6, which)
        assert edge_list(kept) == edge_list(searched)
        assert kept.n_truncated == searched.n_truncated
        if truncation is SMOOTH:
            torch.testing.assert_close(
                weights_of(systems, kept), weights_of(systems, searched), rtol=0, atol=1e-12
            )


def test_fading_neighbors_add_up_to_their_number() -> None:
    """Each atom's own fades sum to N - 1/2 where it has neighbors enough; the equation that
    defines its radius.
    """
    systems = systems_of(STRUCTURES["adslab"])
    n, cutoff = 5, 6.0
    full, graph = (
        build_graph(systems, cutoff),
        make_graph(systems, cutoff, n, settings("radius", "smooth")),
    )
    assert graph.smooth is not None
    radii = graph.smooth.radii
    lengths = edge_vectors(systems.positions, systems.cell, systems.system_idx, full).norm(dim=1)
    u = ((lengths / radii[full.receivers] - (1 - SHELL)) / SHELL).clamp(0, 1)
    sums = torch.zeros(systems.n_atoms, dtype=torch.float64).index_add(
        0, full.receivers, 1 - u**3 * (10 - 15 * u + 6 * u**2)
    )
    crowded = radii < (1 - EDGE) * cutoff
    assert bool(crowded.any())
    assert float((sums[crowded] - (n - 0.5)).abs().max()) < 1e-9
    assert bool((radii < cutoff).all())
    assert graph.n_truncated == full.n_edges - graph.n_edges


def moving(atoms: Atoms, way: np.ndarray) -> Callable[[float], Systems]:
    """The structure with its atoms some share of their ways (n_atoms, 3) along."""

    def at(share: float) -> Systems:
        copy = atoms.copy()
        copy.positions += share * way
        return systems_of(copy)

    return at


def events(
    path: Callable[[float], Systems], made: Callable[[Systems], Graph]
) -> list[tuple[float, float]]:
    """Points 1e-9 before and after the first five changes of the graph on a path."""
    grid = np.linspace(0.0, 1.0, 16)
    graphs = [sorted(edge_list(made(path(x)))) for x in grid]
    found = []
    for low, high, before, after in zip(grid, grid[1:], graphs, graphs[1:], strict=False):
        a, b = float(low), float(high)
        if before == after or len(found) == 5:
            continue
        while b - a > 1e-9:
            middle = (a + b) / 2
            a, b = (middle, b) if sorted(edge_list(made(path(middle)))) == before else (a, middle)
        found.append((a, b))
    return found


def jumps(
    potential: NetworkPotential, path: Callable[[float], Systems], places: list[tuple[float, float]]
) -> tuple[float, float]:
    """Largest jump of energy (eV) and of forces (eV/Angstrom) over those places."""
    energy = forces = 0.0
    for a, b in places:
        before, after = potential(path(a)), potential(path(b))
        assert before.forces is not None
        assert after.forces is not None
        energy = max(energy, float((after.energy - before.energy).abs()))
        forces = max(forces, float((after.forces - before.forces).abs().max()))
    return energy, forces


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "strategy"), [("faenet", "nearest"), ("schnet", "radius")]
)
def test_neighbors_that_overtake_each_other(architecture: str, strategy: str) -> None:
    """As published, energies jump there; with smooth truncation neither they nor forces do, nor
    where edges come and go.
    """
    path = moving(cloud(9), 0.8 * np.random.default_rng(1).normal(size=(9, 3)))
    n = 4

    def with_truncation(name: str) -> NetworkPotential:
        extra = (
            {"smooth_cutoff": False} if architecture == "faenet" and strategy == "nearest" else {}
        )
        return on(
            settings(strategy, name),
            policy="none",
            architecture=architecture,
            max_neighbors=n,
            **extra,
        )

    cutoff = with_truncation("smooth").model.network.cutoff
    overtaking = events(path, lambda systems: make_graph(systems, cutoff, n, settings(strategy)))
    appearing = events(
        path, lambda systems: make_graph(systems, cutoff, n, settings(strategy, "smooth"))
    )
    assert len(overtaking) == 5
    assert len(appearing) == 5
    for name in ("per-atom", "symmetric"):
        energy, forces = jumps(with_truncation(name), path, overtaking)
        assert energy > 1e-3
        assert forces > 1e-3
    energy, forces = jumps(with_truncation("smooth"), path, overtaking + appearing)
    assert energy < 1e-7
    assert forces < 1e-5


def on(
    which: GraphSettings, policy: str = "averaged", architecture: str = "faenet", **options: object
) -> NetworkPotential:
    """A random potential on a graph strategy."""
    potential = random_potential(policy, architecture=architecture, **options)  # type: ignore[arg-type]
    potential.model.graph = which
    return potential


WITH = [
    pytest.param(settings("radius", "symmetric"), 6, id="radius-symmetric"),
    pytest.param(settings("radius", "smooth"), 6, id="radius-smooth"),
    pytest.param(settings("nearest"), 6, id="nearest"),
    pytest.param(settings("nearest", "symmetric"), 6, id="nearest-symmetric"),
    pytest.param(settings("nearest", "smooth"), 6, id="nearest-smooth"),
    pytest.param(settings("complete"), None, id="complete"),
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
@pytest.mark.parametrize(("which", "n"), WITH)
def test_symmetries(which: GraphSettings, n: int | None, architecture: str) -> None:
    policy = "averaged" if architecture == "faenet" else "none"
    potential = on(which, policy, architecture, max_neighbors=n)
    systems = systems_of(
        rattled(adslab("CO", "fcc", size=(2, 2, 2)), 0.1),
        rattled(adslab("O", "fcc", size=(2, 2, 2)), 0.1),
    )
    assert_rotation_invariant(potential, systems, axis="z", n_rotations=1)
    assert_reflection_invariant(potential, systems, axis="z")
    assert_translation_invariant(potential, systems)
    assert_permutation_equivariant(potential, systems)
    assert_rewrap_invariant(potential, systems)
    assert_basis_invariant(potential, systems)
    assert_batch_equals_singles(potential, systems)
    if which.strategy is not COMPLETE:
        assert_supercell_extensive(potential, systems)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
@pytest.mark.parametrize(("which", "n"), WITH)
def test_forces_are_the_gradient(which: GraphSettings, n: int | None, architecture: str) -> None:
    for policy, atoms in (
        ("averaged", rattled(adslab("CO", "fcc", size=(2, 2, 2)), 0.1)),
        ("pca-edges-3d", cloud(9)),
    ):
        potential = on(
            which, policy if architecture == "faenet" else "none", architecture, max_neighbors=n
        )
        assert_forces_are_gradient(potential, systems_of(atoms), n_directions=2)


def test_stress_is_the_gradient_with_fading_neighbors() -> None:
    potential = on(settings("radius", "smooth"), stress=True, max_neighbors=6)
    systems = systems_of(rattled(bulk("Cu", cubic=True), 0.1))
    assert_stress_is_gradient(potential, systems, n_directions=2)


@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
def test_nothing_jumps_at_the_cutoff(architecture: str) -> None:
    potential = on(settings("radius", "smooth"), "none", architecture, max_neighbors=8)
    systems = systems_of(cloud(7), rattled(adslab("O", size=(2, 2, 1)), 0.1))
    assert_smooth_at_cutoff(potential, systems, potential.model.network.cutoff)


def test_second_derivatives_of_fading_weights() -> None:
    """Training on gradient forces differentiates weights twice; the Hessian of a weighted sum
    against differences of its gradient.
    """
    systems = systems_of(cloud(8))
    graph = make_graph(systems, 5.0, 3, settings("radius", "smooth"))

    def value(positions: torch.Tensor) -> torch.Tensor:
        vec = edge_vectors(positions, systems.cell, systems.system_idx, graph)
        weights = edge_weights(positions, systems.cell, systems.system_idx, graph, vec)
        assert weights is not None
        return (weights * torch.cos(vec.sum(1))).sum()

    assert torch.autograd.gradcheck(value, systems.positions.clone().requires_grad_(), atol=1e-6)
    assert torch.autograd.gradgradcheck(
        value, systems.positions.clone().requires_grad_(), atol=1e-5
    )


@pytest.mark.parametrize("cutoff", [1.0, 2.0, 6.0, 15.0, 30.0])
def test_cutoffs_from_1_to_30_angstrom(cutoff: float) -> None:
    systems = systems_of(rattled(adslab("CO", size=(2, 2, 3)), 0.02))
    for truncation in ("per-atom", "smooth"):
        for architecture, policy in (("faenet", "averaged"), ("schnet", "none")):
            potential = on(
                settings("radius", truncation),
                policy,
                architecture,
                cutoff=cutoff,
                max_neighbors=20,
            )
            told = potential(systems)
            assert told.forces is not None
            assert bool(told.energy.isfinite().all())
            assert bool(told.forces.isfinite().all())
    graph = make_graph(systems, cutoff, 20)
    assert graph.n_edges + graph.n_truncated == build_graph(systems, cutoff).n_edges
    assert graph.n_edges <= 24 * systems.n_atoms  # twenty and their ties


def test_isolated_atoms_have_no_edges_and_no_forces() -> None:
    systems = systems_of(rattled(adslab("O", size=(2, 2, 2)), 0.02))
    assert make_graph(systems, 1.0, 20).n_edges == 0
    for which in (settings(), settings("radius", "smooth")):
        told = on(which, cutoff=1.0, max_neighbors=20)(systems)
        assert told.forces is not None
        assert not bool(told.forces.any())
        assert bool(told.energy.isfinite().all())


def test_expected_edges_are_those_of_graphs_without_ties() -> None:
    atoms = STRUCTURES["skewed"]
    systems = systems_of(atoms)
    structure = (atoms.positions, np.array(atoms.cell), atoms.pbc)
    cases = ((settings(), None), (settings("nearest"), 7), (settings("complete"), None))
    for which, n in cases:
        assert (
            estimate_edges(*structure, 4.0, n, which) == make_graph(systems, 4.0, n, which).n_edges
        )
    assert estimate_edges(*structure, 12.0, 7, settings()) == make_graph(systems, 12.0, 7).n_edges


def test_settings_that_make_no_sense() -> None:
    systems = systems_of(cloud())
    with pytest.raises(InputError, match="needs the number of neighbors; set max_neighbors"):
        make_graph(systems, 4.0, None, settings("nearest"))
    with pytest.raises(InputError, match="complete graph cannot be truncated"):
        make_graph(systems, 4.0, 4, settings("complete"))
    with pytest.raises(InputError, match="smooth truncation needs the largest number"):
        make_graph(systems, 4.0, None, settings("radius", "smooth"))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            {"strategy": "nearst"},
            (
                r"`model.graph.strategy` is 'nearst'.*'radius', 'nearest' or 'complete'; did you"
                r" mean `nearest`"
            ),
        ),
        ({"truncation": "smoth"}, "did you mean `smooth`"),
        ({"strategie": "nearest"}, "unknown key `model.graph.strategie`; did you mean `strategy`"),
        (
            {"strategy": "nearest"},
            "model.graph: .* set max_neighbors in the settings of the network",
        ),
    ],
)
def test_recipes_that_make_no_sense(graph: dict, message: str, tmp_path: object) -> None:
    values = recipe_values(tmp_path / "none.extxyz")  # type: ignore[operator]
    values["model"]["graph"] = graph
    with pytest.raises(RecipeError, match=message):
        parse_recipe(values, "test")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "n"),
    [({"strategy": "nearest"}, 6), ({"truncation": "smooth"}, 6), ({"strategy": "complete"}, None)],
)
def test_training_learns_on_every_graph(graph: dict, n: int | None, tmp_path: object) -> None:
    data = write_data(tmp_path / "data.extxyz", relaxations(4))  # type: ignore[operator]
    recipe = make_recipe(data, force_weight=1.0, learning_rate=0.01)
    wanted = {
        "graph": GraphSettings(**graph),
        "settings": {**recipe.model.settings, "max_neighbors": n},
    }
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=wanted)})
    _, losses = weights_after(recipe, tmp_path / "data", 12)  # type: ignore[operator]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_cards_without_a_graph_have_the_one_of_old() -> None:
    assert (
        ModelCard.model_fields["graph"].default == GraphSettings() == settings("radius", "per-atom")
    )
