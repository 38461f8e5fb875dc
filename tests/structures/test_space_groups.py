"""Space groups that stay: the averages of ASE's FixSymmetry, and what must not be averaged."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from geocalc.core.systems import Prediction, Systems, select
from geocalc.errors import InputError
from geocalc.optim import make_optimizer
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.cell_filters import CellFilter
from geocalc.relaxation.loop import relax_systems
from geocalc.structures.convert import from_atoms
from geocalc.structures.space_groups import find_symmetry, symmetrize

ALL = (True,) * 6
# spglib's, in the tests' own calls
pytestmark = pytest.mark.filterwarnings("ignore:.*OLD_ERROR_HANDLING:DeprecationWarning")


@dataclass(frozen=True)
class Perturbed:
    """EMT with noise on forces and stress, the same for the same number of atoms."""

    size: float = 0.2
    emt: AsePotential = field(default_factory=lambda: AsePotential(calculator=EMT(), stress=True))

    def __call__(self, systems: Systems) -> Prediction:
        found = self.emt(systems)
        forces, stress = found.forces.clone(), found.stress.clone()
        for k, rows in enumerate(torch.split(forces, systems.counts.tolist())):
            rng = np.random.default_rng(len(rows))
            rows += torch.from_numpy(rng.normal(0, self.size, rows.shape))
            noise = torch.from_numpy(rng.normal(0, 0.1 * self.size, (3, 3)))
            stress[k] += noise + noise.T
        return replace(found, forces=forces, stress=stress)


def strained(element: str, axes: tuple[float, float, float] = (1.03, 1.03, 0.98)) -> Atoms:
    atoms = bulk(element, cubic=True)
    atoms.set_cell(atoms.cell.array * np.array(axes), scale_atoms=True)
    return atoms


def alloy() -> Atoms:
    """Layers of gold and copper; the one layer free to move between its neighbors is moved."""
    atoms = bulk("Cu", cubic=True).repeat((1, 1, 2))
    atoms.symbols[[0, 1]] = "Au"
    atoms.positions[[2, 3], 2] += 0.1
    return atoms


def relaxed(given: list[Atoms], keep: bool = True, steps: int = 8) -> list[Systems]:
    """The structures after the last step, which with noise need not be those of lowest energy."""
    last = {}

    def observe(live: Systems, now, progress) -> None:
        for k, index in enumerate(progress.index.tolist()):
            last[index] = select(live, live, torch.arange(live.n_systems) == k)

    relax_systems(
        from_atoms(given),
        Perturbed(),
        make_optimizer("bfgs"),
        1e-4,
        steps,
        observe,
        freedom=CellFilter(keep_symmetry=keep),
    )
    return [last[k] for k in range(len(given))]


def group(systems: Systems, symprec: float = 1e-6) -> int:
    scaled = np.linalg.solve(systems.cell[0].numpy().T, systems.positions.numpy().T).T
    return spglib.get_symmetry_dataset(
        (systems.cell[0].numpy(), scaled, systems.numbers.numpy()), symprec=symprec
    ).number


@pytest.mark.slow
def test_the_space_group_stays_although_forces_are_noisy() -> None:
    given = [strained("Cu"), alloy(), strained("Al", (1.02, 1.0, 0.98))]
    before = [group(from_atoms(atoms)) for atoms in given]
    assert len(set(before)) == 3
    kept = relaxed(given)
    assert [group(end) for end in kept] == before
    assert all(
        np.abs(end.cell[0].numpy() - atoms.cell.array).max() > 1e-3
        for end, atoms in zip(kept, given, strict=True)
    )
    assert [group(end, 1e-3) for end in relaxed(given, keep=False)] == [1, 1, 1]
    for atoms, end in zip(given, kept, strict=True):
        (alone,) = relaxed([atoms])
        assert torch.equal(alone.positions, end.positions)
        assert torch.equal(alone.cell, end.cell)


class PerturbedEmt(EMT):
    """`Perturbed` as a calculator of ASE."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:
        super().calculate(atoms, ["energy", "forces", "stress"], system_changes)
        rng = np.random.default_rng(len(atoms))
        self.results["forces"] = self.results["forces"] + rng.normal(0, 0.2, (len(atoms), 3))
        noise = rng.normal(0, 0.02, (3, 3))
        noise = noise + noise.T
        self.results["stress"] = (
            self.results["stress"] + noise[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        )


@pytest.mark.slow
@pytest.mark.parametrize("atoms", [strained("Cu"), alloy()], ids=["cubic", "layers"])
def test_steps_equal_those_of_fix_symmetry(atoms: Atoms) -> None:
    (end,) = relaxed([atoms])
    reference = atoms.copy()
    reference.set_constraint(FixSymmetry(reference))
    reference.calc = PerturbedEmt()
    with BFGS(FrechetCellFilter(reference), logfile=None) as optimizer:
        optimizer.run(fmax=1e-4, steps=8)
    np.testing.assert_allclose(end.cell[0].numpy(), reference.cell.array, rtol=0, atol=1e-9)
    np.testing.assert_allclose(end.positions.numpy(), reference.positions, rtol=0, atol=1e-9)


def test_averages_equal_those_of_fix_symmetry() -> None:
    atoms = alloy()
    rng = np.random.default_rng(2)
    forces, stress = rng.normal(size=(len(atoms), 3)), rng.normal(size=6)
    systems = from_atoms(atoms)
    tensor = stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    smooth, averaged = symmetrize(
        torch.from_numpy(forces), torch.from_numpy(tensor)[None], systems, systems, ALL, 0.01
    )
    constraint = FixSymmetry(atoms)
    constraint.adjust_forces(atoms, forces)
    constraint.adjust_stress(atoms, stress)
    np.testing.assert_allclose(smooth.numpy(), forces, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        averaged[0].numpy(), stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]], rtol=0, atol=1e-12
    )


def order(atoms: Atoms, free: tuple[bool, ...] = ALL) -> int:
    return len(find_symmetry(from_atoms(atoms, use_tags=False), free).rotations)


def test_what_is_held_breaks_the_symmetry() -> None:
    atoms = bulk("Cu", cubic=True)
    assert order(atoms) == 192
    # the axis along z is another one
    assert order(atoms, (True, True, False, False, False, True)) == 64
    assert order(atoms, (False,) * 6) == 192
    atoms.set_constraint(FixAtoms([0]))
    assert order(atoms) == 48  # no translation takes the fixed atom to another one
    tagged = from_atoms(bulk("Cu", cubic=True), use_tags=False)
    tagged.tags[0] = 2
    assert len(find_symmetry(tagged).rotations) == 48


def test_a_slab_has_the_operations_that_do_not_leave_it() -> None:
    atoms = fcc111("Cu", (1, 1, 3), vacuum=5.0, periodic=True)
    assert order(atoms) == 12
    atoms.pbc = (True, True, False)
    assert order(atoms) == 12
    atoms.positions[:, 2] += 7.0  # across the cell, where z has no images
    assert order(atoms) == 12
    atoms.set_constraint(FixAtoms([0]))
    assert order(atoms) == 6


def test_a_structure_without_a_cell_or_a_group_is_refused() -> None:
    with pytest.raises(InputError, match=r"keep a symmetry, .* a periodic direction"):
        relaxed([Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])])
    overlapping = from_atoms(bulk("Cu", cubic=True))
    overlapping = replace(overlapping, positions=torch.zeros_like(overlapping.positions))
    with pytest.raises(InputError, match=r"spglib found no space group within 0\.01 Å"):
        find_symmetry(overlapping)
