"""Anchored labels: what a teacher says of displaced copies, moved onto the DFT structure."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from helpers.workflow_modules import workflow_modules

ENERGY, FORCE = 1.25, 0.03  # eV and eV/Angstrom, of the parent by "DFT"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    with workflow_modules("wide-potential", ["parents", "displacements", "label", "wide"]) as found:
        yield found


@pytest.fixture
def parent(modules: dict[str, ModuleType]):
    atoms = fcc111("Cu", (2, 2, 3), vacuum=7.0)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    atoms.set_tags(np.r_[np.zeros(8), np.ones(4), 2])
    atoms.set_constraint(FixAtoms(range(8)))
    return modules["parents"].Parent(
        sid="p",
        set="test",
        atoms=atoms,
        energy=ENERGY,
        forces=np.full((13, 3), FORCE),
        level="DFT",
        adsorbate="O",
        surface="Cu(111)",
        part="train",
    )


def emt(atoms: Atoms) -> tuple[float, np.ndarray]:
    copy = atoms.copy()
    copy.calc = EMT()
    return copy.get_potential_energy(), copy.get_forces(apply_constraint=False)


def test_copies_move_free_atoms_only_and_are_the_same_each_time(modules, parent) -> None:
    kinds = list(modules["displacements"].KINDS)
    first, second = (modules["label"].copies_of(parent, kinds) for _ in range(2))
    assert [copy.kind for copy in first] == ["relaxed", *kinds]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.atoms.positions, other.atoms.positions)
        moves = one.atoms.positions - parent.atoms.positions
        assert not moves[:8].any()
        assert moves[12].any() == (one.kind != "relaxed")


def test_the_anchor_keeps_its_labels_and_copies_differ_as_the_teacher_says(modules, parent) -> None:
    copies = modules["label"].copies_of(parent, ["shifted", "warmed"])
    energies, forces = zip(*(emt(copy.atoms) for copy in copies), strict=True)
    labeled = modules["label"].anchored(copies, np.array(energies), forces)
    assert labeled[0].info["REF_energy"] == pytest.approx(ENERGY)
    assert labeled[0].arrays["REF_forces"] == pytest.approx(parent.forces)
    assert len({atoms.info["sid"] for atoms in labeled}) == len(labeled) == 3
    for atoms, energy, force in zip(labeled, energies, forces, strict=True):
        assert atoms.arrays["REF_forces"] == pytest.approx(parent.forces + force - forces[0])
        moves = atoms.positions - parent.atoms.positions
        work = np.sum((forces[0] - parent.forces) * moves)
        assert atoms.info["REF_energy"] == pytest.approx(ENERGY + energy - energies[0] + work)


def test_labeled_forces_are_the_gradient_of_labeled_energies(modules, parent) -> None:
    label, step = modules["label"], 1e-4
    ends = []
    for sign in (-1, 1):
        atoms = parent.atoms.copy()
        atoms.positions[12] += [0.2, 0.1, 0.1 + sign * step]
        ends.append(label.Copy(parent, "shifted", atoms))
    middle = parent.atoms.copy()
    middle.positions[12] += [0.2, 0.1, 0.1]
    copies = [label.Copy(parent, "relaxed", parent.atoms), *ends, label.Copy(parent, "x", middle)]
    energies, forces = zip(*(emt(copy.atoms) for copy in copies), strict=True)
    _, before, after, there = label.anchored(copies, np.array(energies), forces)
    slope = (after.info["REF_energy"] - before.info["REF_energy"]) / (2 * step)
    assert -slope == pytest.approx(there.arrays["REF_forces"][12, 2], abs=1e-4)


def test_copies_that_a_teacher_finds_absurd_are_left_out(modules, parent) -> None:
    copies = modules["label"].copies_of(parent, ["shifted"])
    forces = [np.zeros((13, 3)), np.full((13, 3), 50.0)]
    assert len(modules["label"].anchored(copies, np.zeros(2), forces)) == 1
    assert len(modules["label"].anchored(copies, np.array([0.0, 9.0]), [forces[0]] * 2)) == 1


def test_parts_depend_on_names_alone(modules) -> None:
    part_of = modules["parents"].part_of
    parts = [part_of(f"M{k % 40}(111)", f"s{k}") for k in range(400)]
    assert parts == [part_of(f"M{k % 40}(111)", f"s{k}") for k in range(400)]
    assert set(parts) == {"train", "surface", "structure"}
    by_surface = {k % 40 for k, part in enumerate(parts) if part == "surface"}
    assert all(parts[k] == "surface" for k in range(400) if k % 40 in by_surface)
