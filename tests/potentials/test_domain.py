"""The domain of a model: what it says of structures like and unlike those of the training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.formula import Formula
from helpers.training import recipe_values, relaxations, write_data
from safetensors.torch import load, save

from geocalc import GeoCalc, from_atoms, load_model, relax
from geocalc.core.systems import concatenate
from geocalc.data.prepare import prepare_store
from geocalc.data.store import Samples, read_store
from geocalc.errors import DomainWarning, ModelFileError
from geocalc.graphs.neighbors import build_graph, edge_vectors
from geocalc.potentials.domain import (
    AMBER,
    RED,
    Light,
    domain_of,
    domain_tensors,
    find_bonds,
    light_of,
    reason_for,
)
from geocalc.potentials.level_domain import LevelDomain, domain_at, level_tensors
from geocalc.potentials.network import NetworkPotential
from geocalc.potentials.registry import DOMAIN, list_models, read_card, shipped_folder
from geocalc.train.domain import make_domain
from geocalc.train.recipe import Recipe

SMALL = "faenet-sfa-small"
WITH_DOMAIN = ("faenet-is2re", "faenet-sfa", SMALL, "faenet-sfa-small-ensemble", "schnet")


def adslab(adsorbate: str, metal: str = "Pt", height: float = 1.9) -> Atoms:
    slab = fcc111(metal, (2, 2, 3), vacuum=8.0)
    guest = molecule(adsorbate) if len(adsorbate) > 1 else Atoms(adsorbate)
    lowest = int(guest.positions[:, 2].argmin()) if adsorbate != "CO" else 1
    add_adsorbate(slab, guest, height, "fcc", mol_index=lowest)
    return slab


@pytest.fixture(scope="module")
def small() -> NetworkPotential:
    return load_model(shipped_folder() / SMALL, device="cpu", frames="single").potential


def judged(potential: NetworkPotential, atoms: Atoms) -> tuple[Light, str | None]:
    found = potential(from_atoms(atoms, use_tags=False))
    atom = int(found.novel_atom[0])
    return reason_for(
        float(found.novelty[0]), atom, atoms.symbols[atom], int(found.unseen[0]), math.nan
    )


def test_a_known_adsorbate_is_green_and_a_bond_that_was_never_seen_is_red(small) -> None:
    assert judged(small, adslab("O", height=1.2)) == (Light.GREEN, None)
    assert judged(small, adslab("CO")) == (Light.RED, "no C-O bond in training")
    light, reason = judged(small, adslab("N2"))
    assert light is Light.RED
    assert reason == "no N-N bond in training"


def test_surroundings_unlike_any_name_the_atom(small) -> None:
    atoms = adslab("O", height=1.2)
    atoms.positions[5] += [0.0, 0.0, 1.3]  # an atom of the middle layer
    light, reason = judged(small, atoms)
    assert light is Light.RED
    assert "surroundings of atom" in reason
    assert "unlike any in training" in reason


def test_batches_and_copies_that_are_turned_are_judged_alike(small) -> None:
    alone = [from_atoms(adslab(one), use_tags=False) for one in ("O", "CO", "H")]
    found = small(concatenate(alone))
    for k, systems in enumerate(alone):
        one = small(systems)
        assert float(found.novelty[k]) == pytest.approx(float(one.novelty[0]), rel=1e-3)
        assert int(found.unseen[k]) == int(one.unseen[0])
        assert int(found.novel_atom[k]) == int(one.novel_atom[0])
    turned = adslab("O")
    turned.rotate(37.0, "z", rotate_cell=True)
    there = small(from_atoms(turned, use_tags=False))
    assert float(there.novelty[0]) == pytest.approx(float(found.novelty[0]), rel=1e-2)


def test_the_domain_changes_no_energy_and_no_force(small) -> None:
    systems = from_atoms(adslab("O"), use_tags=False)
    with_domain, without = small(systems), replace(small, domain=None)(systems)
    assert torch.equal(with_domain.energy, without.energy)
    assert torch.equal(with_domain.forces, without.forces)
    assert without.novelty is None


def test_bonds_are_counted_for_light_atoms_only() -> None:
    atoms = adslab("CO")
    systems = from_atoms(atoms, use_tags=False)
    graph = build_graph(systems, 5.0)
    vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    bonds = find_bonds(systems, graph, vectors)
    assert bool((bonds.of_atoms[:12] == 0).all())
    assert bonds.molecules.count_nonzero() == 1  # one molecule, at its first atom
    carbon, oxygen = bonds.of_atoms[-1], bonds.of_atoms[-2]
    assert carbon != oxygen
    light, reason = reason_for(3.0, 0, "O", int(oxygen), math.nan)
    assert (light, reason) == (Light.RED, "no O atom bonded to C in training")
    assert bool((bonds.first != bonds.second).any())


def test_an_adsorbate_on_metals_side_by_side_that_had_none_is_amber(trained) -> None:
    potential, samples = trained
    domain = make_domain(potential, samples.training, samples.held_out)
    assert torch.equal(torch.nonzero(domain.hosts), torch.tensor([[29, 29]]))
    known = domain.bonds.clone()  # as if clean slabs of Cu and Ni had been seen
    known[28:30, 28:30] = known[8, 28] = known[28, 8] = True
    judge = replace(potential, domain=replace(domain, bonds=known))
    alloy = adslab("O", "Cu", 1.2)
    alloy.numbers[alloy.get_distances(-1, range(12), mic=True).argmin()] = 28
    systems = from_atoms(alloy, use_tags=False)
    unseen = int(judge(systems).unseen[0])
    assert reason_for(1.5, 0, "O", unseen, math.nan) == (
        Light.AMBER,
        "no adsorbate on Ni next to Cu in training",
    )
    clean = from_atoms(alloy[:12], use_tags=False)
    assert int(judge(clean).unseen[0]) == 0


@pytest.mark.parametrize("name", ["CO", "CH3OH", "HCOOH", "SO2", "C2H4", "O"])
def test_an_adsorbate_that_was_never_seen_is_amber_and_named(trained, name: str) -> None:
    potential, samples = trained
    domain = make_domain(potential, samples.training, samples.held_out)
    everything = torch.ones_like(domain.bonds)
    known = replace(domain, bonds=everything, hosts=everything)
    systems = from_atoms(adslab(name, "Cu", 1.4), use_tags=False)
    graph = build_graph(systems, 5.0)
    vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    codes = find_bonds(systems, graph, vectors).of_atoms
    # as if all its bonds had been seen, in other molecules
    known = replace(known, bonds_of_atoms=codes.unique())
    unseen = int(replace(potential, domain=known)(systems).unseen[0])
    if name == "O":
        assert unseen == 0
        return
    found = reason_for(1.5, 0, "O", unseen, math.nan)
    formula = Formula(name).format("hill")
    assert found == (Light.AMBER, f"no {formula} on a surface in training")
    both = concatenate([systems, from_atoms(adslab("O", "Cu", 1.2), use_tags=False)])
    assert replace(potential, domain=known)(both).unseen.tolist()[0] == unseen


@pytest.mark.parametrize(
    ("novelty", "path", "light", "said"),
    [
        (0.5, 0.5, Light.GREEN, None),
        (0.5, math.nan, Light.GREEN, None),
        (0.5, 2 * RED, Light.AMBER, "the path led"),
        (1.1 * AMBER, 9.0, Light.AMBER, "atom 3 (N) are rare"),
        (1.1 * RED, 9.0, Light.RED, "atom 3 (N) unlike any"),
    ],
)
def test_lights_have_reasons(novelty: float, path: float, light: Light, said: str | None) -> None:
    found, reason = reason_for(novelty, 3, "N", 0, path)
    assert found is light
    assert (reason is None) if said is None else (said in str(reason))
    assert light_of(novelty) in (light, Light.GREEN)


# records, tables, Python


def test_outside_there_is_no_error_bar_and_a_warning() -> None:
    with pytest.warns(DomainWarning, match=r"1 structure is outside .*no C-O bond"):
        inside, outside = relax(
            [plain(adslab("O")), plain(adslab("CO"))], SMALL, frames="single", steps=60
        )
    assert inside.record.domain == "green"
    assert inside.record.domain_reason is None
    assert outside.record.domain == "red"
    assert outside.record.domain_reason == "no C-O bond in training"
    assert outside.record.energy is not None
    assert outside.record.energy_error_95 is None


def test_strict_refuses_what_is_outside() -> None:
    (result,) = relax(plain(adslab("CO")), SMALL, frames="single", strict=True, steps=5)
    assert result.record.energy is None
    assert result.record.status == "ERROR"
    assert "outside what faenet-sfa-small has learned: no C-O bond" in str(result.record.error)


def test_a_calculator_warns_once_and_tells_its_domain() -> None:
    calculator = GeoCalc(SMALL, frames="single")
    atoms = plain(adslab("CO"))
    atoms.calc = calculator
    with pytest.warns(DomainWarning, match="no C-O bond"):
        atoms.get_potential_energy()
    assert calculator.domain == "red"
    atoms.positions[-1, 2] += 0.01
    atoms.get_potential_energy()  # pytest makes a second warning an error
    known = plain(adslab("O", height=1.2))
    known.calc = calculator
    known.get_potential_energy()
    assert (calculator.domain, calculator.domain_reason) == ("green", None)


def plain(atoms: Atoms) -> Atoms:
    """Tags as OC20 has them."""
    tags = np.where(atoms.get_tags() == 0, 2, np.where(atoms.get_tags() == 1, 1, 0))
    atoms.set_tags(tags)
    return atoms


# making


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[NetworkPotential, Samples]:
    """A model of O on Cu, and its data."""
    folder = tmp_path_factory.mktemp("domain")
    values = recipe_values(write_data(folder / "d.traj", relaxations(10)))
    recipe = Recipe.parse(values, "test")
    samples = read_store(prepare_store(recipe, folder / "data"))
    potential = load_model(shipped_folder() / SMALL, device="cpu", frames="single").potential
    return replace(potential, domain=None), samples


def test_held_out_structures_are_inside_and_others_are_not(trained) -> None:
    potential, samples = trained
    domain = make_domain(potential, samples.training, samples.held_out)
    judge = replace(potential, domain=domain)
    assert judged(judge, samples_atoms(samples))[0] is not Light.RED
    assert judged(judge, adslab("H", "Cu"))[0] is Light.RED
    assert domain.bonds[8, 29]
    assert not domain.bonds[1, 29]


def test_it_is_the_same_each_time_and_survives_a_file(trained) -> None:
    potential, samples = trained
    first, second = (make_domain(potential, samples.training, samples.held_out) for _ in "12")
    read = domain_of(domain_tensors(first), "test")
    for name, tensor in domain_tensors(second).items():
        assert torch.equal(tensor, getattr(first, name))
        assert torch.equal(tensor, getattr(read, name))
    with pytest.raises(ModelFileError, match="the domain of test has the tensors"):
        domain_of({"bonds": first.bonds}, "test")


def test_what_other_levels_of_theory_know_is_near_the_edge(trained) -> None:
    potential, samples = trained
    whole = load_model(shipped_folder() / SMALL, device="cpu").potential.domain
    own = make_domain(potential, samples.training, samples.held_out)
    judge = replace(potential, domain=LevelDomain(own, whole))
    light, reason = judged(judge, adslab("H", "Cu", 1.0))
    assert light is Light.AMBER
    assert reason == "no H-Cu bond in training at this level of theory"
    assert judged(judge, adslab("CO", "Cu"))[0] is Light.RED  # no level has it


def test_the_domains_of_all_levels_survive_a_file(trained) -> None:
    potential, samples = trained
    one = make_domain(potential, samples.training, samples.held_out)
    other = replace(one, scales=2 * one.scales)
    # levels share what does not depend on them, which a file cannot hold twice
    tensors = load(save(level_tensors([LevelDomain(one, other), LevelDomain(other, one)])))
    read = domain_at(tensors, "test", 1, 2)
    assert isinstance(read, LevelDomain)
    assert torch.equal(read.own.scales, other.scales)
    assert torch.equal(read.whole.scales, one.scales)
    with pytest.raises(ModelFileError, match=r"the domain of test has no tensors 2\.own"):
        domain_at(tensors, "test", 2, 3)


def samples_atoms(samples: Samples) -> Atoms:
    one = samples.held_out[0]
    return Atoms(one.numbers, one.positions, cell=one.cell, pbc=one.pbc)


# shipped models


@pytest.mark.parametrize("name", WITH_DOMAIN)
def test_shipped_models_know_their_domain(name: str) -> None:
    assert name in list_models()
    folder = shipped_folder() / name
    assert read_card(folder).domain_sha256 is not None
    assert (folder / DOMAIN).stat().st_size < 1_000_000


def test_a_domain_that_was_changed_is_refused(tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(shipped_folder() / SMALL, tmp_path / "copy")
    (copy / DOMAIN).write_bytes((copy / DOMAIN).read_bytes()[:-1])
    with pytest.raises(ModelFileError, match=r"domain\.safetensors has SHA-256"):
        load_model(copy, device="cpu")
