"""Structures in and out: what is kept, what is refused, and that nothing given is changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixInternals,
    FixScaled,
    Hookean,
)
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from geocalc.errors import InputError
from geocalc.structures.convert import fixed_mask, from_atoms, from_structure, to_atoms


def adslab() -> Atoms:
    atoms = fcc111("Pt", (2, 2, 3), vacuum=8.0)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    atoms.set_tags([0] * 8 + [1] * 4 + [2])
    atoms.set_constraint(FixAtoms(indices=range(8)))
    atoms.info["sid"] = "pt-o"
    return atoms


def test_arrays_of_a_batch() -> None:
    slab, water = adslab(), molecule("H2O")
    systems = from_atoms([slab, water])
    assert systems.n_systems == 2
    assert systems.counts.tolist() == [13, 3]
    np.testing.assert_array_equal(
        systems.positions.numpy(), np.vstack([slab.positions, water.positions])
    )
    assert systems.positions.dtype == systems.cell.dtype == torch.float64
    assert systems.numbers.tolist() == [78] * 12 + [8, 8, 1, 1]
    assert systems.tags.tolist() == slab.get_tags().tolist() + [2, 2, 2]
    assert systems.pbc.tolist() == [[True, True, False], [False] * 3]
    assert systems.fixed.all(dim=1).tolist() == [True] * 8 + [False] * 8
    np.testing.assert_array_equal(systems.cell[0].numpy(), slab.cell.array)


def test_one_structure_is_a_batch_of_one() -> None:
    assert from_atoms(adslab()).n_systems == 1


def test_the_batch_shares_no_memory_with_the_structure() -> None:
    atoms = adslab()
    before = atoms.copy()
    systems = from_atoms(atoms)
    systems.positions.add_(1.0)
    systems.cell.add_(1.0)
    systems.fixed[:] = False
    assert atoms == before
    assert fixed_mask(atoms)[:8].all()


def test_no_calculator_is_run() -> None:
    atoms = molecule("CO")
    atoms.calc = EMT()
    from_atoms(atoms)
    assert atoms.calc.results == {}


def test_round_trip_with_templates() -> None:
    atoms = adslab()
    atoms.set_array("site", np.arange(13))
    atoms.set_constraint([FixAtoms(indices=range(4)), FixCartesian([5], (True, False, False))])
    systems = from_atoms(atoms)
    systems.positions[-1, 2] += 0.25
    back = to_atoms(systems, [atoms])[0]
    assert back.positions[-1, 2] == atoms.positions[-1, 2] + 0.25
    np.testing.assert_array_equal(back.positions[:-1], atoms.positions[:-1])
    assert back.info == atoms.info
    assert back.arrays["site"].tolist() == list(range(13))
    assert back.get_tags().tolist() == atoms.get_tags().tolist()
    np.testing.assert_array_equal(fixed_mask(back), fixed_mask(atoms))
    assert back.calc is None
    back.positions += 1
    back.info["sid"] = "other"
    assert atoms.info["sid"] == "pt-o"
    assert atoms.positions[0, 2] == adslab().positions[0, 2]


def test_fixed_atoms_may_be_written_back_moved() -> None:
    atoms = adslab()
    systems = from_atoms(atoms)
    systems.positions[0] += 0.5
    assert to_atoms(systems, [atoms])[0].positions[0, 0] == atoms.positions[0, 0] + 0.5


def test_round_trip_without_templates() -> None:
    atoms = adslab()
    atoms.set_constraint([FixAtoms(indices=range(4)), FixCartesian([5, 6], (True, False, True))])
    back = to_atoms(from_atoms([atoms, molecule("CO")]))
    assert [len(b) for b in back] == [13, 2]
    assert back[0] == atoms
    assert back[0].get_tags().tolist() == atoms.get_tags().tolist()
    np.testing.assert_array_equal(fixed_mask(back[0]), fixed_mask(atoms))
    assert back[1].constraints == []


def test_cell_comes_back() -> None:
    atoms = adslab()
    systems = from_atoms(atoms)
    systems.cell[0, 2, 2] += 1.0
    assert to_atoms(systems, [atoms])[0].cell[2, 2] == atoms.cell[2, 2] + 1.0


def test_templates_must_match() -> None:
    systems = from_atoms(molecule("CO"))
    with pytest.raises(InputError, match="got 2 templates for 1"):
        to_atoms(systems, [molecule("CO")] * 2)
    with pytest.raises(InputError, match="template 0"):
        to_atoms(systems, [molecule("NO")])


def test_fix_cartesian() -> None:
    atoms = molecule("CO")
    atoms.set_constraint(FixCartesian([1], (False, True, False)))
    assert from_atoms(atoms).fixed.tolist() == [[False] * 3, [False, True, False]]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ((True, True, True), [True, True, True]),
        ((False, False, True), [False, False, True]),
        ((True, True, False), None),
    ],
)
def test_partial_selective_dynamics(
    mask: tuple[bool, bool, bool], expected: list[bool] | None
) -> None:
    atoms = adslab()
    atoms.set_cell(atoms.cell + np.array([[0, 0, 0], [0, 0, 0], [0.5, 0, 20.0]]))
    atoms.set_constraint(FixScaled([3], mask))
    if expected is None:
        with pytest.raises(InputError, match="FixScaled"):
            fixed_mask(atoms)
    else:
        assert fixed_mask(atoms)[3].tolist() == expected
        assert fixed_mask(atoms).sum() == sum(expected)


@pytest.mark.parametrize(
    "constraint",
    [
        FixBondLengths([(0, 1)]),
        Hookean(0, 1, 1.0, rt=1.2),
        FixInternals(bonds=[(1.1, (0, 1))]),
        FixCom(),
    ],
    ids=lambda c: type(c).__name__,
)
def test_other_constraints_are_named(constraint: object) -> None:
    atoms = molecule("CO")
    atoms.set_constraint(constraint)
    with pytest.raises(InputError, match=type(constraint).__name__):
        from_atoms(atoms)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_position_that_is_not_a_number(value: float) -> None:
    atoms = adslab()
    atoms.positions[7, 0] = value
    with pytest.raises(InputError, match=r"structure 1 \(Pt12O\): the position of atom 7 is \["):
        from_atoms([adslab(), atoms])


def test_cell_that_is_not_a_number() -> None:
    atoms = adslab()
    atoms.cell[0, 0] = np.nan
    with pytest.raises(InputError, match=r"the cell is .*, expected finite"):
        from_atoms(atoms)


def test_zero_cell_with_pbc() -> None:
    with pytest.raises(
        InputError,
        match=r"CO|OC: pbc is on along a and b and c although that lattice vector is zero",
    ):
        from_atoms(Atoms("CO", positions=[[0, 0, 0], [1.1, 0, 0]], pbc=True))


def test_zero_third_vector_without_pbc_is_fine() -> None:
    atoms = adslab()
    atoms.cell[2] = 0
    assert from_atoms(atoms).n_atoms == 13


def test_dependent_cell_vectors() -> None:
    with pytest.raises(InputError, match="linearly dependent"):
        from_atoms(Atoms("H", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True))


def test_overlapping_atoms() -> None:
    atoms = adslab()
    atoms.positions[12] = atoms.positions[9] + [0, 0, 0.3]
    with pytest.raises(
        InputError, match=r"Pt12O: atom 9 \(Pt\) and atom 12 \(O\) are 0\.30 Å apart"
    ):
        from_atoms(atoms)


def test_overlap_across_the_boundary() -> None:
    atoms = adslab()
    atoms.positions[12] = atoms.positions[9] + 2 * atoms.cell[0] - atoms.cell[1] + [0, 0, 0.3]
    with pytest.raises(InputError, match=r"structure 1 .*atom 9 .* and atom 12"):
        from_atoms([adslab(), atoms])


def test_overlap_with_the_own_image() -> None:
    with pytest.raises(InputError, match=r"atom 0 \(Pt\) and its own periodic image are 0\.50 Å"):
        from_atoms(Atoms("Pt", cell=[0.5, 5, 5], pbc=True, tags=[1]))


def test_short_bonds_do_not_overlap() -> None:
    assert from_atoms(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.6]])).n_atoms == 2


@pytest.mark.parametrize("number", [0, 119, -1])
def test_unknown_element(number: int) -> None:
    atoms = molecule("CO")
    atoms.numbers[0] = number
    with pytest.raises(InputError, match=f"atomic number {number}"):
        from_atoms(atoms)


def test_nothing_given() -> None:
    with pytest.raises(InputError, match="got an empty list of structures"):
        from_atoms([])
    with pytest.raises(InputError, match="structure 1 has no atoms"):
        from_atoms([molecule("CO"), Atoms()])
    with pytest.raises(InputError, match="structure 0 is a str"):
        from_atoms(["CO"])  # type: ignore[list-item]


def test_from_structure_keeps_site_properties() -> None:
    atoms = adslab()
    atoms.pbc = True
    expected = from_atoms(atoms)
    systems = from_structure(AseAtomsAdaptor.get_structure(atoms))
    torch.testing.assert_close(systems.positions, expected.positions, atol=1e-12, rtol=0)
    torch.testing.assert_close(systems.cell, expected.cell, atol=1e-12, rtol=0)
    for name in ("numbers", "tags", "fixed", "pbc"):
        assert torch.equal(getattr(systems, name), getattr(expected, name))


def test_from_structure_of_several_with_partial_freedom() -> None:
    cell = Lattice.orthorhombic(4, 4, 20)
    free = {"selective_dynamics": [[True, True, False], [True, True, True]], "tags": [1, 2]}
    structure = Structure(cell, ["Pt", "O"], [[0, 0, 0.1], [0, 0, 0.2]], site_properties=free)
    systems = from_structure([structure, structure])
    assert systems.fixed.tolist() == [[False, False, True], [False] * 3] * 2
    assert systems.tags.tolist() == [1, 2, 1, 2]


def test_from_structure_keeps_open_directions() -> None:
    cell = Lattice.orthorhombic(4, 4, 20)
    structure = Structure(
        Lattice(cell.matrix, pbc=(True, True, False)),
        ["Pt"],
        [[0, 0, 0]],
        site_properties={"tags": [1]},
    )
    assert from_structure(structure).pbc.tolist() == [[True, True, False]]


def test_from_structure_refuses_partial_occupation() -> None:
    with pytest.raises(InputError, match="partially occupied"):
        from_structure(Structure(Lattice.cubic(4), [{"Pt": 0.5, "Pd": 0.5}], [[0, 0, 0]]))
    with pytest.raises(InputError, match="expected a pymatgen Structure"):
        from_structure([molecule("CO")])
