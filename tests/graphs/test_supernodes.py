"""Subsurface atoms seen as one node, or as one for each element: where the nodes are, and that
nothing arbitrary decides it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from data.test_pairs import values_of
from helpers.models import random_potential, write_model
from helpers.structures import adslab, rattled, rotation_z, systems_of, turned
from helpers.training import (
    cpu_fabric,
    in_double,
    make_recipe,
    relaxations,
    weights_after,
    write_data,
)

from geocalc import load_model
from geocalc.core.systems import Systems, concatenate
from geocalc.errors import InputError, ModelFileError, RecipeError
from geocalc.graphs.neighbors import build_graph
from geocalc.graphs.reduction import Rewiring, keep_atoms
from geocalc.graphs.supernodes import Nodes, Supernodes, merge
from geocalc.potentials.card import ModelCard
from geocalc.potentials.network import ForceMode, NetworkPotential
from geocalc.testing import (
    assert_basis_invariant,
    assert_batch_equals_singles,
    assert_forces_are_gradient,
    assert_permutation_equivariant,
    assert_reflection_invariant,
    assert_rewrap_invariant,
    assert_rotation_invariant,
    assert_translation_invariant,
)
from geocalc.train.loader import batch_loader
from geocalc.train.recipe import Recipe, parse_recipe

MERGING = [Supernodes.ONE, Supernodes.PER_ELEMENT]


def alloy(
    adsorbate: str = "CO", seed: int = 1, pbc: tuple[bool, bool, bool] = (True, True, False)
) -> Atoms:
    """A rattled slab of copper with some oxygen below, and an adsorbate."""
    atoms = rattled(adslab(adsorbate, "fcc", size=(2, 2, 3)), 0.1, seed)
    below = np.flatnonzero(atoms.get_tags() == 0)
    atoms.numbers[below[::3]] = 8
    atoms.set_pbc(pbc)
    return atoms


def slabs() -> Systems:
    return systems_of(alloy("CO", 1), alloy("O", 2))


def nodes_of(systems: Systems, kind: Supernodes) -> Nodes:
    nodes = merge(systems, kind)
    assert nodes is not None
    return nodes


def looking_at(kind: Supernodes, **options: object) -> NetworkPotential:
    potential = random_potential(**options)  # type: ignore[arg-type]
    potential.model.rewiring = Rewiring(supernodes=kind)
    return potential


def test_counts_and_order() -> None:
    systems = slabs()
    below = systems.tags == 0
    for kind, n_each, numbers in ((Supernodes.ONE, 1, [0]), (Supernodes.PER_ELEMENT, 2, [8, 29])):
        nodes = nodes_of(systems, kind)
        seen = nodes.systems
        assert seen.n_atoms == int((~below).sum()) + 2 * n_each
        assert seen.n_systems == 2
        assert bool((seen.system_idx.diff() >= 0).all())
        merged = seen.tags == 0
        assert seen.numbers[merged].tolist() == numbers * 2
        assert bool(seen.fixed[merged].all())
        assert torch.equal(nodes.merged, below)
        for name in ("numbers", "tags", "positions", "system_idx"):
            assert torch.equal(getattr(seen, name)[~merged], getattr(systems, name)[~below])
        of_atoms = torch.where(below & (kind is Supernodes.ONE), 0, systems.numbers)
        assert torch.equal(seen.numbers[nodes.node_of], of_atoms)
        assert torch.equal(seen.system_idx[nodes.node_of], systems.system_idx)


def test_of_a_cluster_a_supernode_is_where_it_was_published() -> None:
    """Mean in x and y, maximum in z, where no image can be confused with another."""
    atoms = alloy(pbc=(False, False, False))
    systems, below = systems_of(atoms), atoms.get_tags() == 0
    place = nodes_of(systems, Supernodes.ONE).systems.positions[-1]
    expected = [*atoms.positions[below, :2].mean(axis=0), atoms.positions[below, 2].max()]
    assert place.tolist() == pytest.approx(expected, abs=1e-12)
    each = nodes_of(systems, Supernodes.PER_ELEMENT).systems
    for number, found in zip((8, 29), each.positions[-2:].tolist(), strict=True):
        chosen = atoms.positions[below & (atoms.numbers == number)]
        assert found == pytest.approx([*chosen[:, :2].mean(axis=0), chosen[:, 2].max()], abs=1e-12)


def test_in_a_wide_cell_it_is_there_too() -> None:
    atoms = alloy()
    atoms.set_cell(np.diag([60.0, 60.0, 40.0]))
    below = atoms.get_tags() == 0
    expected = [*atoms.positions[below, :2].mean(axis=0), atoms.positions[below, 2].max()]
    for pbc in ((True, True, False), (True, True, True)):
        atoms.set_pbc(pbc)
        stored = atoms.copy()
        stored.positions[::2] += np.array(atoms.cell)[0] - 2 * np.array(atoms.cell)[1]
        if pbc[2]:
            stored.positions[below] -= np.array(atoms.cell)[2]
        found = nodes_of(systems_of(stored), Supernodes.ONE).systems.positions[-1].numpy()
        shift = np.linalg.solve(np.array(atoms.cell).T, found - expected)
        assert np.abs(shift - np.round(shift)).max() < 1e-12


def test_beneath_the_adsorbate_of_a_perfect_slab() -> None:
    """A layer that repeats without end has no middle; its node lies below the adsorbate, whose
    surroundings are symmetric.
    """
    for position in ("ontop", "fcc", "bridge"):
        atoms = adslab("O", position, size=(2, 2, 3))
        place = nodes_of(systems_of(atoms), Supernodes.ONE).systems.positions[-1].numpy()
        way = place - atoms.positions[-1]
        assert (
            np.linalg.norm(way[:2]) < 0.05 if position == "fcc" else np.linalg.norm(way[:2]) < 1e-9
        )
        assert place[2] == pytest.approx(atoms.positions[atoms.get_tags() == 0, 2].max())


def test_a_slab_thicker_than_its_vacuum_is_merged_from_below() -> None:
    atoms = adslab("O", "fcc", size=(2, 2, 9))
    atoms.center(vacuum=3.0, axis=2)
    atoms.set_pbc(True)
    assert np.ptp(atoms.positions[:, 2]) > 0.6 * atoms.cell[2, 2]
    place = nodes_of(systems_of(atoms), Supernodes.ONE).systems.positions[-1]
    assert float(place[2]) == pytest.approx(atoms.positions[atoms.get_tags() == 0, 2].max())


def test_up_is_where_the_adsorbate_is() -> None:
    atoms = alloy()
    upside_down = atoms.copy()
    upside_down.positions[:, 2] *= -1
    places = [
        nodes_of(systems_of(one), Supernodes.ONE).systems.positions[-1]
        for one in (atoms, upside_down)
    ]
    assert (places[0] * torch.tensor([1.0, 1.0, -1.0])).tolist() == pytest.approx(
        places[1].tolist(), abs=1e-12
    )


def test_supernodes_are_not_joined_to_each_other() -> None:
    systems = slabs()
    for kind in MERGING:
        seen = nodes_of(systems, kind).systems
        graph = build_graph(seen, 6.0)
        kept = Rewiring(supernodes=kind).edges(graph, seen)
        below = seen.tags == 0
        assert not bool((below[kept.receivers] & below[kept.senders]).any())
        assert (
            graph.n_edges - kept.n_edges
            == int((below[graph.receivers] & below[graph.senders]).sum())
            > 0
        )
        assert bool(below[kept.senders].any())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
@pytest.mark.parametrize("kind", MERGING)
def test_symmetries(kind: Supernodes, architecture: str) -> None:
    potential = looking_at(
        kind, policy="averaged" if architecture == "faenet" else "none", architecture=architecture
    )
    for systems in (
        slabs(),
        systems_of(alloy("CO", 3, (True, True, True)), alloy("O", 4, (True, True, True))),
    ):
        assert_rotation_invariant(potential, systems, axis="z", n_rotations=1)
        assert_reflection_invariant(potential, systems, axis="z")
        assert_translation_invariant(potential, systems)
        assert_permutation_equivariant(potential, systems)
        assert_rewrap_invariant(potential, systems)
        assert_basis_invariant(potential, systems)
        assert_batch_equals_singles(potential, systems)


@pytest.mark.parametrize("kind", MERGING)
def test_forces_go_through_the_nodes(kind: Supernodes) -> None:
    potential, systems = looking_at(kind, max_neighbors=None), slabs()
    assert_forces_are_gradient(potential, systems)
    forces = potential(systems).forces
    assert forces is not None
    assert bool(forces[systems.tags == 0].any())


@pytest.mark.parametrize("kind", [*MERGING, Supernodes.NONE])
def test_without_subsurface_atoms_nothing_changes(kind: Supernodes) -> None:
    systems = slabs()
    bare = keep_atoms(systems, systems.tags != 0)
    assert merge(bare, kind) is None
    plain, told = random_potential()(bare), looking_at(kind)(bare)
    assert torch.equal(plain.energy, told.energy)
    assert torch.equal(plain.forces, told.forces)  # type: ignore[arg-type]


def test_one_structure_of_a_batch_may_have_nothing_below() -> None:
    systems = slabs()
    bare = keep_atoms(systems, (systems.tags != 0) | (systems.system_idx == 0))
    assert_batch_equals_singles(looking_at(Supernodes.ONE), bare)


@pytest.mark.parametrize("kind", MERGING)
def test_references_are_those_of_all_atoms(kind: Supernodes) -> None:
    """Total energies: what an atom is worth is not lost with it."""
    systems = slabs()
    potential = looking_at(kind)
    before = potential(systems)
    potential.model.references[0, 29] += 1.25
    after = potential(systems)
    copper = torch.bincount(systems.system_idx[systems.numbers == 29]).double()
    torch.testing.assert_close(after.energy - before.energy, 1.25 * copper, rtol=0, atol=1e-9)
    shares = after.atom_energies
    assert shares is not None
    summed = torch.zeros(2, dtype=torch.float64).index_add(0, systems.system_idx, shares)
    torch.testing.assert_close(summed, after.energy, rtol=0, atol=1e-9)


def test_merged_atoms_have_no_displacement() -> None:
    systems = slabs()
    potential = looking_at(Supernodes.ONE, force_mode=ForceMode.NONE, direct_forces=True)
    potential.model.displaces = True
    told = potential(systems)
    assert told.displacement is not None
    assert told.displacement.shape == systems.positions.shape
    assert not bool(told.displacement[systems.tags == 0].any())
    turn = rotation_z(0.4)
    again = potential(turned(systems, turn)).displacement
    torch.testing.assert_close(again, told.displacement @ turn, rtol=0, atol=1e-9)


def test_a_small_move_moves_a_node_a_little() -> None:
    """Also of atoms half a cell from the adsorbate, whose nearest image changes."""
    atoms = adslab("O", "ontop", size=(2, 2, 3))
    places = []
    for seed in range(6):
        moved = rattled(atoms, 1e-4, seed)
        places.append(nodes_of(systems_of(moved), Supernodes.ONE).systems.positions[-1])
    assert float(torch.stack(places).std(0).max()) < 1e-3


def test_what_contradicts_itself() -> None:
    with pytest.raises(InputError, match="can only be removed or merged"):
        Rewiring(drop_subsurface=True, supernodes=Supernodes.ONE)
    bare = slabs()
    bare = replace(bare, tags=torch.where(bare.system_idx == 1, 0, bare.tags))
    with pytest.raises(InputError, match="structure 1 of the batch has no adsorbate"):
        looking_at(Supernodes.ONE)(bare)
    potential = looking_at(Supernodes.ONE)
    with pytest.raises(InputError, match="supernodes, which have no stress"):
        replace(potential, stress=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supernodes": "on"}, "did you mean `one`"),
        ({"drop_subsurface": True}, "can only be removed or merged"),
        ({"reads_tags": False}, "go by tags; set model.reads_tags: true"),
        ({"repulsion_reach": 0.5}, "supernodes have no short-range repulsion"),
    ],
)
def test_recipes_that_make_no_sense(change: dict, message: str, tmp_path: Path) -> None:
    values = values_of(tmp_path)
    values["model"] |= {"drop_subsurface": False, "supernodes": "one"} | change
    with pytest.raises(RecipeError, match=message):
        parse_recipe(values, "test")


def test_compact_tables_have_no_row_for_it(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    values["model"] |= {"drop_subsurface": False, "supernodes": "one"}
    values["model"]["settings"]["compact_tables"] = True
    with pytest.raises(RecipeError, match="set compact_tables: false"):
        parse_recipe(values, "test")
    values["model"]["supernodes"] = "per-element"
    assert parse_recipe(values, "test").model.supernodes is Supernodes.PER_ELEMENT


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one", "per-element"])
def test_relaxed_energies_are_learnt(kind: str, tmp_path: Path) -> None:
    values = values_of(tmp_path, learning_rate=0.01)
    values["model"] |= {"drop_subsurface": False, "adsorbate_edges": False, "supernodes": kind}
    _, losses = weights_after(Recipe.parse(values, "test"), tmp_path / "data", 15)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_card_keeps_it(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path,
        card={
            "supernodes": "per-element",
            "repulsion_reach": None,
            "graph": {"truncation": "smooth"},
        },
        settings={"max_neighbors": 8},
    )
    loaded = load_model(folder, device="cpu", dtype="float64")
    assert loaded.card.supernodes is Supernodes.PER_ELEMENT
    systems = concatenate([systems_of(alloy("CO", 1))])
    plain = write_model(
        tmp_path, "plain", card={"repulsion_reach": None}, settings={"max_neighbors": 8}
    )
    energies = [
        load_model(one, device="cpu", dtype="float64")(systems).energy for one in (folder, plain)
    ]
    assert float((energies[0] - energies[1]).abs()) > 1e-3
    assert ModelCard.model_fields["supernodes"].default is Supernodes.NONE


def test_a_card_that_contradicts_itself(tmp_path: Path) -> None:
    folder = write_model(tmp_path, card={"supernodes": "one", "drop_subsurface": True})
    with pytest.raises(ModelFileError, match="can only be removed or merged"):
        load_model(folder, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", MERGING)
def test_forces_are_learnt_through_the_nodes(kind: Supernodes, tmp_path: Path) -> None:
    """Targets of merged atoms are left out; those of the others are met with forces that go through
    the nodes.
    """
    recipe = make_recipe(
        write_data(tmp_path / "data.extxyz", relaxations(4)), force_weight=1.0, learning_rate=0.01
    )
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"supernodes": kind})}
    )
    run, samples = in_double(recipe, tmp_path / "data")
    (part,) = batch_loader(samples, recipe, run.model, cpu_fabric()).batch(0)
    below = part.systems.tags == 0
    assert bool(part.labels.forces[below].isnan().all())
    assert bool(part.labels.forces[~below].isfinite().all())
    assert bool(part.systems.fixed[below].all())
    _, losses = weights_after(recipe, tmp_path / "data", 15)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
