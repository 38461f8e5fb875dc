"""Every law for every potential: random networks and the shipped models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc110, molecule
from helpers.models import SMALL, random_potential
from helpers.structures import adslab, cloud, rattled, systems_of
from helpers.tiers import tiered

from geocalc.architectures import ARCHITECTURES
from geocalc.architectures.ensemble import Ensemble
from geocalc.core.systems import Potential, Prediction, Systems, concatenate, select
from geocalc.frames import frame_policy
from geocalc.graphs.reduction import Rewiring
from geocalc.graphs.strategies import make_graph
from geocalc.graphs.supernodes import Supernodes
from geocalc.nn.interaction import MessageType
from geocalc.potentials.card import ModelCard
from geocalc.potentials.load import load_model
from geocalc.potentials.network import ForceMode, NetworkPotential, evaluate
from geocalc.potentials.registry import (
    list_models,
    model_task,
    read_card,
    shipped_folder,
)
from geocalc.testing import (
    assert_basis_invariant,
    assert_batch_equals_singles,
    assert_deterministic,
    assert_forces_are_gradient,
    assert_inputs_unchanged,
    assert_permutation_equivariant,
    assert_reflection_invariant,
    assert_rewrap_invariant,
    assert_rotation_invariant,
    assert_smooth_at_cutoff,
    assert_stress_is_gradient,
    assert_supercell_extensive,
    assert_translation_invariant,
)

EXACT = 1e-9  # eV; rounding is at 1e-13
GRADIENT = 1e-6  # eV/Angstrom

Law = Callable[[Potential, Systems], None]
EXACT_LAWS: dict[str, Law] = {
    "translation": partial(assert_translation_invariant, tolerance=EXACT),
    "rotation about z": partial(assert_rotation_invariant, axis="z", tolerance=EXACT),
    "rotation": partial(assert_rotation_invariant, tolerance=EXACT),
    "reflection along z": partial(assert_reflection_invariant, axis="z", tolerance=EXACT),
    "reflection": partial(assert_reflection_invariant, tolerance=EXACT),
    "permutation": partial(assert_permutation_equivariant, tolerance=EXACT),
    "batch": partial(assert_batch_equals_singles, tolerance=EXACT),
    "re-wrapping": partial(assert_rewrap_invariant, tolerance=EXACT),
    "basis": partial(assert_basis_invariant, tolerance=EXACT),
    "supercell": partial(assert_supercell_extensive, tolerance=EXACT),
    "determinism": assert_deterministic,
    "inputs": assert_inputs_unchanged,
}
RANDOM = {
    **{f"{kind}": {"mp_type": kind, "norm": "layer"} for kind in MessageType},
    "no norm": {"norm": "none", "skip_co": "add", "energy_head": "weighted-av-final-embeds"},
    "graph norm": {"norm": "graph", "mp_type": "base", "skip_co": "none", "phys_embeds": False},
    "schnet": {"architecture": "schnet", "tag_hidden_channels": 4, "message_scale": 0.3},
    "relaxed": {"architecture": "regnn", "tag_hidden_channels": 2},
    "equivariant": {
        "architecture": "regnn",
        "l_relaxed": 0,
        "features": "6x0e + 4x1o + 2x2e",
    },
    "rich": {
        "repulsion_reach": 1.1,
        "directional_gaussians": 3,
        "second_layer_MLP": True,
        "phys_hidden_channels": 4,
    },
    "ewald": {"ewald": {}},
    "ewald schnet": {"architecture": "schnet", "ewald": {"k_cutoff": 1.7, "num_hidden": 1}},
}
RANDOM["simple"] |= {"num_filters": SMALL["hidden_channels"]}
SHIPPED = sorted(
    name
    for name, places in list_models().items()
    if shipped_folder() in [place.parent for place in places]
    and model_task(shipped_folder() / name) in ModelCard.tasks
)
POTENTIALS = [*RANDOM, *SHIPPED]
ADSORBED_ONLY = [name for name in SHIPPED if read_card(shipped_folder() / name).adsorbate_edges]
CONSERVATIVE = [
    *RANDOM,
    *(name for name in SHIPPED if read_card(shipped_folder() / name).conservative),
]

FAST = ("updownscale_base", "schnet", "ewald")


def of(names: Iterable[str]) -> list[Any]:
    """Parameters of these potentials; some of them in the fast tier."""
    return tiered(names, fast=FAST)


@cache
def potential(name: str, policy: str, stress: bool = False) -> NetworkPotential:
    if name in RANDOM:
        return random_potential(policy, stress=stress, **RANDOM[name])
    return load_model(
        shipped_folder() / name, device="cpu", dtype="float64", frames=policy, stress=stress
    ).potential


def left_handed(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(np.diag([1, 1, -1]) @ copy.cell)
    return copy


def unwrapped(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.positions[1] += 2 * copy.cell[0] - copy.cell[1]
    return copy


def wire() -> Atoms:
    atoms = Atoms(
        "CuCuOH",
        positions=[(0, 0, 0), (2.4, 0.3, 0.1), (3.0, 2.0, 0.2), (0.3, -0.2, 1.8)],
        cell=(4.9, 0, 0),
    )
    atoms.pbc = (True, False, False)
    return atoms


def turned_about_all_axes(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.rotate(37, (1.0, 2.0, 0.5), rotate_cell=True)
    return copy


def rectangular() -> Atoms:
    """A slab that is periodic along all three vectors, with an adsorbate; the lattice has four
    frames.
    """
    atoms = fcc110("Cu", (2, 2, 2), vacuum=4.0)
    atoms += Atoms(
        "CO",
        positions=[atoms.positions[-1] + (0.3, 0.2, 1.8), atoms.positions[-1] + (0.4, 0.1, 2.95)],
    )
    atoms.set_tags([0] * 4 + [1] * 4 + [2] * 2)
    atoms.pbc = True
    return atoms


@cache
def slabs() -> Systems:
    """Plane lattices of all kinds: hexagonal, square, rectangular; one turned, one left-handed, one
    with unwrapped atoms.
    """
    hexagonal = rattled(adslab("CO", "fcc", size=(2, 2, 2)))
    square = rattled(adslab("O", "bridge", size=(2, 2, 2), square=True))
    return systems_of(
        turned_about_all_axes(hexagonal), left_handed(square), unwrapped(rattled(rectangular()))
    )


@cache
def others() -> Systems:
    """What is no slab: molecules, one of them symmetric, an atom, a wire, a crystal of one atom,
    two atoms out of reach.
    """
    bulk = Atoms("Cu", cell=[[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]], pbc=True)
    apart = Atoms("HO", positions=[(0, 0, 0), (30, 0, 0)])
    guests = (
        Atoms("CO2", positions=cloud(3).positions),
        turned_about_all_axes(molecule("CH4")),
        Atoms("H"),
        wire(),
        bulk,
        apart,
    )
    return systems_of(*guests)


@cache
def everything() -> Systems:
    """All of the above: no law may depend on what else is in a batch."""
    return concatenate([slabs(), others()])


def seen_by(name: str, systems: Systems) -> Systems:
    """What a model takes of a batch: all, or for one that sees only adsorbates on slabs, those;
    Ewald knows no wires.
    """
    if "ewald" in name:
        return select(systems, systems, systems.pbc.sum(1) != 1)
    return slabs() if name in ADSORBED_ONLY else systems


@cache
def generic() -> Systems:
    """Structures without symmetry, for derivatives: a slab, a molecule, a wire."""
    atoms = rattled(molecule("CH3CH2OH"), 0.1)
    return systems_of(rattled(adslab("CO", "fcc", size=(2, 2, 2))), atoms, wire())


@pytest.mark.parametrize("law", EXACT_LAWS)
@pytest.mark.parametrize("name", of(POTENTIALS))
def test_lattice_frames_obey_every_law(name: str, law: str) -> None:
    EXACT_LAWS[law](potential(name, "averaged"), seen_by(name, everything()))


@pytest.mark.parametrize("law", [law for law in EXACT_LAWS if law != "basis"])
@pytest.mark.parametrize("name", of(["updownscale_base", "graph norm", *SHIPPED]))
def test_cell_frames_obey_every_law_but_that_of_the_basis(name: str, law: str) -> None:
    EXACT_LAWS[law](potential(name, "single"), seen_by(name, everything()))


@pytest.mark.parametrize("law", EXACT_LAWS)
@pytest.mark.parametrize("name", of(["schnet", "equivariant"]))
def test_an_invariant_network_obeys_every_law_without_frames(name: str, law: str) -> None:
    EXACT_LAWS[law](potential(name, "none"), everything())


@pytest.mark.parametrize("name", of(name for name in POTENTIALS if name not in ADSORBED_ONLY))
def test_a_three_by_three_supercell_is_nine_cells(name: str) -> None:
    systems = systems_of(
        rattled(adslab("", size=(1, 1, 2)), 0.1), Atoms("Cu", cell=(2.5, 2.5, 2.6), pbc=True)
    )
    assert_supercell_extensive(potential(name, "averaged"), systems, repeats=3, tolerance=EXACT)


@pytest.mark.parametrize("policy", ["averaged", "single"])
@pytest.mark.parametrize("name", of(CONSERVATIVE))
def test_forces_are_the_gradient(name: str, policy: str) -> None:
    assert_forces_are_gradient(
        potential(name, policy), seen_by(name, generic()), n_directions=2, tolerance=GRADIENT
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["averaged", "single"])
@pytest.mark.parametrize("name", of(POTENTIALS))
def test_energy_and_forces_are_continuous_at_the_cutoff(name: str, policy: str) -> None:
    chosen = potential(name, policy)
    assert_smooth_at_cutoff(
        chosen, seen_by(name, generic()), chosen.model.network.cutoff, tolerance=GRADIENT
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["averaged", "single"])
@pytest.mark.parametrize("name", of(CONSERVATIVE))
def test_stress_is_the_derivative_by_strain(name: str, policy: str) -> None:
    chosen = potential(name, policy, stress=True)
    slab = rattled(adslab("O", "fcc", size=(1, 2, 2)))
    assert_stress_is_gradient(
        chosen, systems_of(slab, left_handed(rattled(rectangular()))), tolerance=1e-8
    )


def test_stress_turns_with_the_structure() -> None:
    chosen = potential("updownscale_base", "averaged", stress=True)
    for law in ("rotation", "reflection", "batch", "re-wrapping", "basis", "supercell"):
        EXACT_LAWS[law](chosen, slabs())


@pytest.mark.slow
@pytest.mark.parametrize("law", [law for law in EXACT_LAWS if law != "basis"])
@pytest.mark.parametrize("policy", ["averaged", "single"])
def test_direct_forces_turn_with_the_structure(policy: str, law: str) -> None:
    chosen = random_potential(policy, force_mode=ForceMode.DIRECT, direct_forces=True)
    EXACT_LAWS[law](chosen, everything())


def test_direct_forces_are_not_the_gradient() -> None:
    chosen = random_potential(force_mode=ForceMode.DIRECT, direct_forces=True)
    with pytest.raises(AssertionError, match="gradient: force along a direction differs by"):
        assert_forces_are_gradient(chosen, generic())


def test_frames_reach_no_further_than_the_edges() -> None:
    chosen = random_potential("pca-edges-3d", cutoff=3.3)
    assert frame_policy("pca-edges-3d").reach > chosen.model.network.cutoff
    assert_smooth_at_cutoff(chosen, systems_of(wire()), 3.3, tolerance=GRADIENT)


N_LEVELS = 3
LEVELED = [
    *ARCHITECTURES,
    "ensemble",
    *(kind for kind in Supernodes if kind is not Supernodes.NONE),
]


@dataclass(frozen=True)
class SeveralLevels:
    """A potential that predicts every structure at a level chosen by its number of atoms."""

    one: NetworkPotential

    def __call__(self, systems: Systems) -> Prediction:
        model, network = self.one.model, self.one.model.network
        nodes = model.rewiring.nodes(systems)
        seen = systems if nodes is None else nodes.systems
        graph = make_graph(seen, network.cutoff, network.max_neighbors, model.graph)
        return evaluate(
            model,
            systems,
            model.rewiring.edges(graph, seen),
            systems.counts % N_LEVELS,
            self.one.policy,
            self.one.force_mode,
            nodes=nodes,
        ).detach()


@cache
def leveled(name: str, policy: str) -> SeveralLevels:
    architecture = name if name in ARCHITECTURES else "faenet"
    chosen = random_potential(policy, architecture=architecture, n_levels=N_LEVELS)
    if name == "ensemble":
        other = random_potential(seed=1, n_levels=N_LEVELS).model.network
        chosen.model.network = Ensemble([chosen.model.network, copy.deepcopy(other)]).double()
    elif name not in ARCHITECTURES:
        chosen.model.rewiring = Rewiring(supernodes=Supernodes(name))
    return SeveralLevels(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["batch", "permutation", "rotation", "re-wrapping", "determinism"])
@pytest.mark.parametrize("policy", ["averaged", "single"])
@pytest.mark.parametrize("name", list(LEVELED))
def test_structures_of_several_levels_obey_the_laws(name: str, policy: str, law: str) -> None:
    systems = everything() if name in (*ARCHITECTURES, "ensemble") else slabs()
    assert len(set((systems.counts % N_LEVELS).tolist())) > 1
    EXACT_LAWS[law](leveled(name, policy), systems)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LEVELED))
def test_forces_of_several_levels_are_the_gradient(name: str) -> None:
    chosen = leveled(name, "averaged")
    systems = generic() if name in (*ARCHITECTURES, "ensemble") else slabs()
    assert_forces_are_gradient(chosen, systems, n_directions=2, tolerance=GRADIENT)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_network_tells_levels_apart_beyond_their_references(architecture: str) -> None:
    chosen = random_potential(architecture=architecture, n_levels=N_LEVELS)
    chosen.model.references.zero_()
    found = torch.stack([replace(chosen, level=level)(slabs()).energy for level in range(N_LEVELS)])
    assert float((found[1:] - found[0]).abs().min()) > 1e-4


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_level_folded_in_predicts_the_same(architecture: str) -> None:
    chosen = random_potential(architecture=architecture, n_levels=N_LEVELS)
    chosen.model.references.zero_()
    wanted = replace(chosen, level=1)(slabs())
    chosen.model.network.fold_level(1)
    assert not [name for name in chosen.model.network.state_dict() if "level" in name]
    told = chosen(slabs())
    assert torch.allclose(told.energy, wanted.energy, rtol=0, atol=1e-10)
    assert torch.allclose(told.forces, wanted.forces, rtol=0, atol=1e-10)
