"""The wide potential: parts of its data sets, agreement of teachers, and its measurements."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write
from helpers.workflow_modules import workflow_modules


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    with workflow_modules(
        "wide-potential", ["parents", "wide", "agree", "real", "measure", "panel"]
    ) as found:
        yield found


def test_parts_depend_on_names_alone(modules) -> None:
    part_of = modules["parents"].part_of
    parts = [part_of(f"M{k % 40}(111)", f"s{k}") for k in range(400)]
    assert parts == [part_of(f"M{k % 40}(111)", f"s{k}") for k in range(400)]
    assert set(parts) == {"train", "surface", "structure"}
    by_surface = {k % 40 for k, part in enumerate(parts) if part == "surface"}
    assert all(parts[k] == "surface" for k in range(400) if k % 40 in by_surface)


def emt_of(structures: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    energies, forces = [], []
    for atoms in structures:
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces(apply_constraint=False))
        atoms.calc = None
    return np.array(energies), np.concatenate(forces)


def test_labels_that_a_second_teacher_contradicts_are_dropped(modules, tmp_path) -> None:
    anchor = fcc111("Cu", (2, 2, 3), vacuum=7.0)
    anchor.set_constraint(FixAtoms(range(8)))
    copies = [anchor.copy() for _ in range(4)]
    for copy in copies[1:]:
        copy.positions[8:] += np.random.default_rng(0).normal(scale=0.1, size=(4, 3))
    energies, forces = emt_of(copies)
    for k, (copy, force) in enumerate(zip(copies, np.split(forces, 4), strict=True)):
        copy.info = {"parent": "p", "sid": f"p#{k}", "kind": "warmed" if k else "relaxed"}
        copy.info["REF_energy"] = energies[k] - energies[0]
        copy.set_array("REF_forces", force - forces[:12])
    write(tmp_path / "labels.extxyz", copies)
    tell = modules["agree"].keep_agreed
    # another zero and the same differences: the anchors take constant forces away
    other = forces + np.tile(np.full((12, 3), 0.2), (4, 1))
    moves = np.array([0.2 * (copy.positions - anchor.positions).sum() for copy in copies])
    tell(tmp_path / "labels.extxyz", energies + 7.0 - moves, other, tmp_path / "all.extxyz")
    assert len(read(tmp_path / "all.extxyz", ":")) == 4
    wrong = other.copy()
    wrong[24:36] *= -1.0
    tell(tmp_path / "labels.extxyz", energies + 7.0 - moves, wrong, tmp_path / "some.extxyz")
    kept = [atoms.info["sid"] for atoms in read(tmp_path / "some.extxyz", ":")]
    assert kept == ["p#0", "p#1", "p#3"]


def test_the_area_under_the_curve_counts_pairs_in_order(modules) -> None:
    auroc = modules["measure"].auroc
    gross = np.array([False, False, True, True])
    assert auroc(np.array([0.0, 1.0, 2.0, 3.0]), gross) == 1.0
    assert auroc(np.array([3.0, 2.0, 1.0, 0.0]), gross) == 0.0
    assert auroc(np.array([1.0, 1.0, 1.0, 1.0]), gross) == 0.5
    assert auroc(np.array([0.0, 2.0, 1.0, np.inf]), gross) == 0.75
    assert np.isnan(auroc(np.zeros(2), np.zeros(2, bool)))


def test_the_panel_has_sound_starts(modules) -> None:
    starts = list(modules["panel"].panel())
    assert len({atoms.info["sid"] for atoms in starts}) == len(starts) == 8 * 17
    for atoms in starts:
        assert atoms.pbc.all()
        assert set(atoms.get_tags()) == {0, 1, 2}
        guest = atoms.get_tags() == 2
        near = atoms.get_all_distances(mic=True)[guest][:, ~guest].min()
        assert 1.5 < near < 3.6, atoms.info["sid"]


def test_a_stretched_bond_of_the_panel_is_told(modules) -> None:
    start = modules["panel"].start_of("CO", "Pt")
    end = start.copy()
    assert modules["panel"].bond_error(start, end, start) == pytest.approx(0.0)
    end.positions[-1] += 0.1 * (end.positions[-1] - end.positions[-2])
    assert modules["panel"].bond_error(start, end, start) == pytest.approx(0.1, abs=1e-6)
    broken = start.copy()
    broken.positions[-1, 2] += 3.0
    assert modules["panel"].bond_error(start, end, broken) is None
