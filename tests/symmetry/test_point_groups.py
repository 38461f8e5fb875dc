"""Point groups: the 32 crystal classes, their names in any orientation, and the groups of
structures.
"""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100, fcc111, molecule
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.symmetry.analyzer import PointGroupAnalyzer
from scipy.spatial.transform import Rotation

from geocalc.errors import InputError
from geocalc.symmetry.point_groups import (
    HERMANN_MAUGUIN,
    as_group,
    identify_point_group,
    point_group,
    rotated_group,
)
from geocalc.symmetry.structure_groups import find_point_group

R = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()
ORDERS = {
    **{
        "C1": 1,
        "Ci": 2,
        "C2": 2,
        "Cs": 2,
        "C2h": 4,
        "D2": 4,
        "C2v": 4,
        "D2h": 8,
        "C4": 4,
        "S4": 4,
        "C4h": 8,
        "D4": 8,
    },
    **{
        "C4v": 8,
        "D2d": 8,
        "D4h": 16,
        "C3": 3,
        "S6": 6,
        "D3": 6,
        "C3v": 6,
        "D3d": 12,
        "C6": 6,
        "C3h": 6,
        "C6h": 12,
    },
    **{"D6": 12, "C6v": 12, "D3h": 12, "D6h": 24, "T": 12, "Th": 24, "O": 24, "Td": 24, "Oh": 48},
}


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two sets of matrices are one, whatever their order."""
    return len(one) == len(other) and bool(
        (np.abs(one[:, None] - other[None]).max(axis=(2, 3)).min(axis=1) < 1e-9).all()
    )


def cyclic(*generators: np.ndarray) -> np.ndarray:
    """All products of some matrices."""
    found = [np.eye(3)]
    for one in found:
        for generator in generators:
            product = generator @ one
            if all(np.abs(product - other).max() > 1e-6 for other in found):
                found.append(product)
    return np.array(found)


def test_there_are_the_32_crystal_classes() -> None:
    assert len(HERMANN_MAUGUIN) == len(set(HERMANN_MAUGUIN.values())) == len(ORDERS) == 32


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_a_group_is_closed_orthogonal_and_found_again_by_its_name(name: str) -> None:
    group = point_group(name)
    assert group.shape == (ORDERS[name], 3, 3)
    np.testing.assert_array_equal(group[0], np.eye(3))
    np.testing.assert_allclose(
        group @ group.transpose(0, 2, 1), np.broadcast_to(np.eye(3), group.shape), atol=1e-14
    )
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 3, 3)
    assert np.abs(products[:, None] - group[None]).max(axis=(2, 3)).min(axis=1).max() < 1e-14
    assert same(group, point_group(HERMANN_MAUGUIN[name].upper()))
    for found in (
        identify_point_group(group),
        identify_point_group(point_group(name.lower(), R)),
        identify_point_group(group[::-1]),
    ):
        assert (found.schoenflies, found.hermann_mauguin, found.order) == (
            name,
            HERMANN_MAUGUIN[name],
            ORDERS[name],
        )


def test_axes_lie_as_in_the_international_tables() -> None:
    quarter, third = (
        Rotation.from_euler("z", angle, degrees=True).as_matrix() for angle in (90, 120)
    )
    x, y, z = (np.diag(1.0 - 2.0 * axis) for axis in np.eye(3))
    assert same(point_group("D4h"), cyclic(quarter, x, z))
    assert same(point_group("3m"), cyclic(third, x))
    assert same(point_group("m"), cyclic(y))
    assert same(point_group("6/mmm"), cyclic(third, x, y, z))


def test_a_group_turns_with_its_axes() -> None:
    assert same(rotated_group(point_group("D4h"), R), point_group("4/mmm", R))
    field = R @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(
        point_group("C4v", R) @ field, np.broadcast_to(field, (8, 3)), atol=1e-14
    )


@pytest.mark.parametrize("n", [5, 7, 8])
def test_groups_that_no_crystal_has_have_names_too(n: int) -> None:
    turn = Rotation.from_euler("z", 2 * np.pi / n).as_matrix()
    x, z = np.diag([-1.0, 1.0, 1.0]), np.diag([1.0, 1.0, -1.0])
    half = Rotation.from_euler("z", np.pi / n).as_matrix()
    made = {
        f"C{n}": [turn],
        f"C{n}v": [turn, x],
        f"C{n}h": [turn, z],
        f"D{n}": [turn, x @ z],
        f"D{n}h": [turn, x, z],
    }
    made |= (
        {f"S{2 * n}" if n % 2 == 0 else f"C{n}h": [half @ z], f"D{n}d": [half @ z, x]}
        if n % 2 == 0
        else {}
    )
    for name, generators in made.items():
        found = identify_point_group(rotated_group(cyclic(*generators), R))
        assert (found.schoenflies, found.hermann_mauguin) == (name, None)
        assert str(found) == name


def test_what_is_no_group_is_refused() -> None:
    with pytest.raises(InputError, match=r"no crystal class is named 'D4k'; did you mean .*D4h"):
        point_group("D4k")
    with pytest.raises(InputError, match="known are C1, Ci"):
        point_group("cube")
    with pytest.raises(InputError, match=r"shape \(n, 3, 3\) with n at least 1, got \(3, 3\)"):
        as_group(np.eye(3))
    with pytest.raises(InputError, match="not orthogonal"):
        as_group(np.stack([np.eye(3), [[0, -1, 0], [1, -1, 0], [0, 0, 1]]]))
    with pytest.raises(InputError, match="not closed"):
        as_group(point_group("Oh")[:-1])
    with pytest.raises(InputError, match="not closed"):
        as_group(np.stack([np.eye(3), np.eye(3)]))
    with pytest.raises(InputError, match="an orientation must be an orthogonal matrix"):
        point_group("Oh", 2 * np.eye(3))


@pytest.mark.parametrize(
    "name",
    ["H2O", "NH3", "CH4", "C6H6", "C2H4", "C2H6", "C3H4_D2d", "HCOOH", "bicyclobutane", "C3H4_C3v"],
)
def test_molecules_have_the_group_that_pymatgen_finds(name: str) -> None:
    atoms = molecule(name)
    reference = PointGroupAnalyzer(AseAtomsAdaptor.get_molecule(atoms), tolerance=0.05)
    assert identify_point_group(find_point_group(atoms)).schoenflies == reference.sch_symbol
    assert len(find_point_group(atoms)) == len(reference.get_symmetry_operations())


def test_a_molecule_s_group_takes_atoms_to_atoms_and_turns_with_it() -> None:
    atoms = molecule("C6H6")
    atoms.positions = atoms.positions @ R.T + [1.0, 2.0, 3.0]
    group, centered = find_point_group(atoms), atoms.positions - atoms.positions.mean(axis=0)
    assert same(group, rotated_group(find_point_group(molecule("C6H6")), R))
    away = np.linalg.norm(
        (centered @ group.transpose(0, 2, 1))[:, :, None] - centered[None, None], axis=3
    )
    assert away.min(axis=2).max() < 1e-3
    assert (atoms.numbers[away.argmin(axis=2)] == atoms.numbers).all()


def test_an_imperfect_molecule_has_the_exact_group_of_the_perfect_one() -> None:
    atoms = molecule("CH4")
    atoms.rattle(0.01, seed=1)
    group = find_point_group(atoms, tolerance=0.1)
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 3, 3)
    assert identify_point_group(group).schoenflies == "Td"
    assert np.abs(products[:, None] - group[None]).max(axis=(2, 3)).min(axis=1).max() < 1e-9
    assert identify_point_group(find_point_group(atoms, tolerance=1e-4)).schoenflies == "C1"


@pytest.mark.parametrize(
    ("atoms", "name"),
    [
        (bulk("Cu"), "Oh"),
        (bulk("Cu", cubic=True) * (2, 1, 1), "Oh"),
        (bulk("Ti"), "D6h"),
        (bulk("ZnS", "zincblende", a=5.4), "Td"),
        (fcc111("Cu", (2, 2, 3)), "D3d"),
        (fcc111("Cu", (1, 1, 2), vacuum=5.0, periodic=True), "D3d"),
        (fcc100("Cu", (1, 1, 1)), "D4h"),
    ],
)
def test_crystals_and_slabs(atoms: Atoms, name: str) -> None:
    assert identify_point_group(find_point_group(atoms)).schoenflies == name
    atoms.set_cell(atoms.cell[:] @ R.T, scale_atoms=True)
    assert identify_point_group(find_point_group(atoms)).schoenflies == name


def test_an_adsorbate_takes_the_inversion_and_the_normal_is_kept() -> None:
    slab = fcc100("Cu", (1, 1, 2), vacuum=6.0)
    on_top = slab + Atoms("O", [slab.positions[-1] + [0.0, 0.0, 1.8]])
    group = find_point_group(on_top)
    assert identify_point_group(group).schoenflies == "C4v"
    np.testing.assert_allclose(group[:, 2], np.broadcast_to([0.0, 0.0, 1.0], (8, 3)), atol=1e-9)


def test_a_strained_cell_has_an_exact_group() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell[:] @ np.diag([1.0, 1.001, 0.9995]), scale_atoms=True)
    group = find_point_group(atoms)
    np.testing.assert_allclose(
        group @ group.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (48, 3, 3)), atol=1e-12
    )
    assert identify_point_group(group).schoenflies == "Oh"


def test_structures_without_a_finite_group_are_refused() -> None:
    for atoms in (molecule("CO2"), Atoms("H")):
        with pytest.raises(InputError, match="all atoms lie on one line"):
            find_point_group(atoms)
    with pytest.raises(InputError, match="without atoms"):
        find_point_group(Atoms())
    with pytest.raises(InputError, match="periodic along one vector only"):
        find_point_group(Atoms("H", cell=[3, 3, 3], pbc=(True, False, False)))
    with pytest.raises(InputError, match="span no volume"):
        find_point_group(Atoms("H", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True))
