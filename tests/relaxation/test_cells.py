"""Coordinates of relaxing cells: rows of atoms and strains, and their batches."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from ase.build import bulk
from ase.constraints import FixedPlane
from torch import Tensor

from geocalc.core.cells import CellCoordinates
from geocalc.core.systems import Systems, concatenate, select
from geocalc.relaxation.cell_filters import CellFilter
from geocalc.structures.convert import from_atoms

FILTER = CellFilter(mask=(True, True, False, False, False, True))
FREE, SHAPES = FILTER.free, FILTER.shapes


def crystals() -> list[Systems]:
    """Structures of one, four and two atoms; a plane holds one atom of the second."""
    held = bulk("Al", cubic=True)
    held.set_constraint(FixedPlane(2, (1, 1, 0)))
    return [from_atoms(atoms) for atoms in (bulk("Cu"), held, bulk("Mg"))]


def assert_equal(one: CellCoordinates | Systems, other: CellCoordinates | Systems) -> None:
    for f in fields(one):
        mine, yours = getattr(one, f.name), getattr(other, f.name)
        if isinstance(mine, Systems):
            assert_equal(mine, yours)
        else:
            assert torch.equal(mine, yours)


def test_strains_follow_the_atoms_of_their_structure() -> None:
    systems = concatenate(crystals())
    coordinates = CellCoordinates.of(systems, FREE, SHAPES)
    assert coordinates.counts.tolist() == [4, 7, 5]
    assert coordinates.system_idx.bincount().tolist() == [4, 7, 5]
    assert coordinates.is_atom[:8].tolist() == [True] + 3 * [False] + 4 * [True]
    assert torch.equal(coordinates.atoms.positions, systems.positions)
    assert not bool(coordinates.strain.any())
    assert torch.equal(
        ~coordinates.fixed[~coordinates.is_atom].reshape(3, 3, 3), FREE.expand(3, 3, 3)
    )


def test_vectors_on_atoms_and_strains_are_joined_to_rows() -> None:
    coordinates = CellCoordinates.of(concatenate(crystals()), FREE, SHAPES)
    on_atoms, strains = torch.rand(7, 3).double(), torch.rand(3, 3, 3).double()
    counts = torch.tensor([1.0, 4.0, 2.0]).double()[:, None, None]
    placed = replace(coordinates, positions=coordinates.rows(on_atoms, counts * strains))
    assert torch.equal(placed.atoms.positions, on_atoms)
    torch.testing.assert_close(placed.strain, strains, rtol=1e-15, atol=0)
    assert not bool(coordinates.rows(on_atoms)[~coordinates.is_atom].any())


@pytest.mark.parametrize("chosen", [[True, False, True], [False, True, False]])
def test_batches_are_selected_and_joined(chosen: list[bool]) -> None:
    parts = crystals()
    together = CellCoordinates.of(concatenate(parts), FREE, SHAPES)
    assert_equal(concatenate([CellCoordinates.of(part, FREE, SHAPES) for part in parts]), together)
    mask: Tensor = torch.tensor(chosen)
    expected = select(concatenate(parts), concatenate(parts), mask)
    assert_equal(select(together, together, mask), CellCoordinates.of(expected, FREE, SHAPES))
