"""Labels: which is taken, that constraints never touch them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read, write

from geocalc.errors import InputError
from geocalc.structures.labels import has_zeroed_forces, read_labels


def constrained(seed: int = 0) -> Atoms:
    """A slab with forces on its fixed atoms too, stored as DFT codes give them."""
    atoms = fcc111("Cu", (1, 1, 4), vacuum=6.0)
    atoms.info.clear()
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.set_constraint(FixAtoms(indices=[0, 1]))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def test_own_keys_come_first() -> None:
    atoms = constrained()
    atoms.info["REF_energy"] = -1.5
    atoms.set_array("REF_forces", np.full((4, 3), 0.25))
    found = read_labels(atoms)
    assert (found.energy, found.energy_source, found.forces_source) == (
        -1.5,
        "REF_energy",
        "REF_forces",
    )
    assert found.forces is not None
    assert (found.forces == 0.25).all()


def test_other_keys() -> None:
    atoms = constrained()
    atoms.info["dft_energy"] = np.float32(-2.5)
    found = read_labels(atoms, energy_key="dft_energy", forces_key="dft_forces")
    assert (found.energy, found.energy_source, found.forces_source) == (
        -2.5,
        "dft_energy",
        "calculator",
    )


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db", "a.json"])
def test_forces_of_fixed_atoms_survive_every_file(name: str, tmp_path: Path) -> None:
    atoms = constrained()
    write(tmp_path / name, atoms)
    back = read(tmp_path / name)
    assert isinstance(back, Atoms)
    assert (back.get_forces()[:2] == 0).all()
    found = read_labels(back)
    assert found.forces is not None
    np.testing.assert_allclose(found.forces, atoms.calc.results["forces"], atol=1e-7)
    assert (np.abs(found.forces[:2]) > 1e-3).any()
    assert found.energy == pytest.approx(atoms.calc.results["energy"], abs=1e-6)


def test_no_labels() -> None:
    found = read_labels(molecule("CO"))
    assert found.energy is None
    assert found.forces is None
    assert found.energy_source is found.forces_source is None


def test_nothing_is_computed() -> None:
    atoms = molecule("CO")
    atoms.calc = EMT()
    assert read_labels(atoms).energy is None
    assert atoms.calc.results == {}


def test_zero_is_a_label() -> None:
    atoms = molecule("CO")
    atoms.info["REF_energy"] = 0.0
    assert read_labels(atoms).energy == 0.0


def test_labels_are_copies() -> None:
    atoms = constrained()
    found = read_labels(atoms)
    assert found.forces is not None
    found.forces[:] = 9.0
    assert not (atoms.calc.results["forces"] == 9.0).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_must_be_finite(value: float) -> None:
    atoms = molecule("CO")
    atoms.info["REF_energy"] = value
    with pytest.raises(InputError, match=r"NaN or infinity in the energy under REF_energy"):
        read_labels(atoms)


def test_labels_must_be_numbers() -> None:
    atoms = molecule("CO")
    atoms.info["REF_energy"] = "low"
    with pytest.raises(InputError, match="got 'low'; remove it"):
        read_labels(atoms)


def test_labels_must_have_their_shape() -> None:
    atoms = molecule("CO")
    atoms.info["REF_energy"] = [1.0, 2.0]
    with pytest.raises(InputError, match="expected one number"):
        read_labels(atoms)
    atoms = molecule("CO")
    atoms.info["REF_forces"] = np.zeros((3, 3))
    with pytest.raises(InputError, match=r"expected \(2, 3\)"):
        read_labels(atoms)


def zeroed(seed: int) -> Atoms:
    atoms = constrained(seed)
    atoms.calc = SinglePointCalculator(atoms, forces=atoms.get_forces())
    return atoms


def test_zeroed_by_constraints() -> None:
    assert has_zeroed_forces([zeroed(k) for k in range(3)])
    assert has_zeroed_forces(zeroed(k) for k in range(3))


def test_one_raw_structure_clears_the_set() -> None:
    assert not has_zeroed_forces([*(zeroed(k) for k in range(3)), constrained()])


def test_partly_fixed_atoms_count_by_component() -> None:
    atoms = constrained()
    forces = atoms.calc.results["forces"].copy()
    forces[2, 1] = 0.0
    atoms.set_constraint(FixCartesian([2], (False, True, False)))
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    assert has_zeroed_forces([atoms])
    forces[2, 1] = 1e-9
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    assert not has_zeroed_forces([atoms])


def test_nothing_fixed_or_nothing_known_is_not_zeroed() -> None:
    free = constrained()
    free.set_constraint()
    still = constrained()
    still.calc = SinglePointCalculator(still, forces=np.zeros((4, 3)))
    assert not has_zeroed_forces([free])
    assert not has_zeroed_forces([still])
    assert not has_zeroed_forces([molecule("CO")])
    assert not has_zeroed_forces([])
