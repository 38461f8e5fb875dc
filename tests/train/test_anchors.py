"""Anchored labels: what a teacher says of displaced copies, moved onto the DFT structure."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from geocalc.data.displacements import DISPLACEMENTS
from geocalc.train.anchors import Anchor, Copy, anchored, copies_of

ENERGY, FORCE = 1.25, 0.03  # eV and eV/Angstrom, of the anchor by "DFT"


@pytest.fixture
def anchor() -> Anchor:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=7.0)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    atoms.set_tags(np.r_[np.zeros(8), np.ones(4), 2])
    atoms.set_constraint(FixAtoms(range(8)))
    fixed = np.arange(13) < 8
    forces = np.full((13, 3), FORCE)
    return Anchor(sid="p", atoms=atoms, fixed=fixed, energy=ENERGY, forces=forces)


def emt(atoms: Atoms) -> tuple[float, np.ndarray]:
    copy = atoms.copy()
    copy.calc = EMT()
    return copy.get_potential_energy(), copy.get_forces(apply_constraint=False)


def test_copies_move_free_atoms_only_and_are_the_same_each_time(anchor: Anchor) -> None:
    kinds = list(DISPLACEMENTS)
    first, second = (copies_of(anchor, kinds) for _ in range(2))
    assert [copy.kind for copy in first] == ["relaxed", *kinds]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.atoms.positions, other.atoms.positions)
        moves = one.atoms.positions - anchor.atoms.positions
        assert not moves[:8].any()
        assert moves[12].any() == (one.kind != "relaxed")


def test_the_anchor_keeps_its_labels_and_copies_differ_as_the_teacher_says(anchor: Anchor) -> None:
    copies = copies_of(anchor, ["shifted", "warmed"])
    energies, forces = zip(*(emt(copy.atoms) for copy in copies), strict=True)
    labeled = anchored(copies, np.array(energies), forces)
    assert labeled[0].info["REF_energy"] == pytest.approx(ENERGY)
    assert labeled[0].arrays["REF_forces"] == pytest.approx(anchor.forces)
    assert len({atoms.info["sid"] for atoms in labeled}) == len(labeled) == 3
    for atoms, energy, force in zip(labeled, energies, forces, strict=True):
        assert atoms.arrays["REF_forces"] == pytest.approx(anchor.forces + force - forces[0])
        moves = atoms.positions - anchor.atoms.positions
        work = np.sum((forces[0] - anchor.forces) * moves)
        assert atoms.info["REF_energy"] == pytest.approx(ENERGY + energy - energies[0] + work)


def test_labeled_forces_are_the_gradient_of_labeled_energies(anchor: Anchor) -> None:
    step = 1e-4
    ends = []
    for sign in (-1, 1):
        atoms = anchor.atoms.copy()
        atoms.positions[12] += [0.2, 0.1, 0.1 + sign * step]
        ends.append(Copy(anchor, "shifted", atoms))
    middle = anchor.atoms.copy()
    middle.positions[12] += [0.2, 0.1, 0.1]
    copies = [Copy(anchor, "relaxed", anchor.atoms), *ends, Copy(anchor, "x", middle)]
    energies, forces = zip(*(emt(copy.atoms) for copy in copies), strict=True)
    _, before, after, there = anchored(copies, np.array(energies), forces)
    slope = (after.info["REF_energy"] - before.info["REF_energy"]) / (2 * step)
    assert -slope == pytest.approx(there.arrays["REF_forces"][12, 2], abs=1e-4)


def test_copies_that_a_teacher_finds_absurd_are_left_out(anchor: Anchor) -> None:
    copies = copies_of(anchor, ["shifted"])
    forces = [np.zeros((13, 3)), np.full((13, 3), 50.0)]
    assert len(anchored(copies, np.zeros(2), forces)) == 1
    assert len(anchored(copies, np.array([0.0, 9.0]), [forces[0]] * 2)) == 1
