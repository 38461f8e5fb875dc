"""What constraints hold, from ASE objects through a relaxation to its files, against ASE and
against plain minimization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixConstraint, FixedLine, FixedPlane, FixScaled
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS, FIRE
from helpers.models import write_model
from helpers.structures import adslab, rattled, rotation_z
from helpers.tiers import tiered
from pymatgen.core import Lattice, Structure
from scipy.optimize import minimize

import geocalc
from geocalc.core.systems import (
    Prediction,
    Systems,
    apply_constraints,
    concatenate,
    displaced,
    select,
    sum_per_system,
)
from geocalc.errors import InputError
from geocalc.optim import make_optimizer
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.loop import ATOMS_ONLY, relax_systems
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status
from geocalc.runs.forms import Input
from geocalc.runs.roles import NamedPotential
from geocalc.runs.runner import open_run_folder, run_relaxation
from geocalc.runs.settings import RelaxSettings
from geocalc.structures.convert import fixed_mask, from_atoms, from_structure, to_atoms
from geocalc.structures.extxyz import format_extxyz

EXACT = 1e-12  # Angstrom
OBLIQUE = (1.0, -2.0, 0.7)
ASE = {"fire": FIRE, "bfgs": BFGS}
HOLD = {  # constraints on a slab of 8 copper atoms (bottom layer first) with carbon and oxygen
    "atoms": [FixAtoms(range(4))],
    "components": [FixAtoms(range(4)), FixCartesian([4, 9], (True, False, True))],
    "plane": [FixAtoms(range(4)), FixedPlane([5, 8, 9], OBLIQUE)],
    "axis plane": [FixAtoms(range(4)), FixedPlane([5, 8], (0, 1, 0))],
    "line": [FixAtoms(range(4)), FixedLine([4, 6, 8], OBLIQUE)],
    "scaled height": [FixScaled(range(4)), FixScaled([4, 5, 8], (False, False, True))],
    "many": [
        FixAtoms(range(4)),
        FixedPlane([5, 9], OBLIQUE),
        FixedLine(8, (1, 1, 0)),
        FixCartesian(4, (True, False, False)),
    ],
}


def slab(constraints: Sequence[FixConstraint] = (), turn: float = 0.0) -> Atoms:
    atoms = rattled(adslab("CO", size=(2, 2, 2)), 0.1)
    atoms.set_constraint([constraint.copy() for constraint in constraints])
    atoms.rotate(turn, "z", rotate_cell=True)
    return atoms


def relaxed(
    given: Systems | Atoms, name: str = "bfgs", fmax: float = 0.05, max_steps: int = 300
) -> list[Relaxation]:
    systems = from_atoms(given) if isinstance(given, Atoms) else given
    return relax_systems(
        systems, AsePotential(calculator=EMT()), make_optimizer(name), fmax, max_steps
    )


def strayed(atoms: Atoms, end: np.ndarray) -> float:
    """How far, in Angstrom, atoms have gone where their constraints do not let them."""
    moves, worst = end - atoms.positions, 0.0
    for constraint in atoms.constraints:
        mine = moves[constraint.index]
        if isinstance(constraint, FixAtoms):
            held = mine
        elif isinstance(constraint, FixCartesian):
            held = mine[:, constraint.mask]
        elif isinstance(constraint, FixedPlane):
            held = mine @ constraint.dir
        elif isinstance(constraint, FixedLine):
            held = np.cross(mine, constraint.dir)
        else:
            held = (
                np.linalg.solve(atoms.cell.array.T, mine.T)[constraint.mask]
                * atoms.cell.lengths()[constraint.mask, None]
            )
        worst = max(worst, float(np.abs(held).max()))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("name", tiered(sorted(ASE), fast=["bfgs"]))
@pytest.mark.parametrize("kind", sorted(HOLD))
def test_the_path_is_that_of_ase_and_what_is_held_stays(kind: str, name: str) -> None:
    atoms = slab(HOLD[kind])
    reference = atoms.copy()
    reference.calc = EMT()
    with ASE[name](reference, logfile=None) as optimizer:
        converged = optimizer.run(fmax=0.05, steps=300)
    (end,) = relaxed(atoms, name)
    positions = end.systems.positions.numpy()
    assert converged
    assert (end.status, end.n_steps) == (Status.CONVERGED, optimizer.nsteps)
    assert np.abs(positions - reference.positions).max() < 1e-9
    reference.set_positions(positions, apply_constraint=False)
    assert end.fmax == pytest.approx(np.linalg.norm(reference.get_forces(), axis=1).max(), abs=1e-9)
    assert strayed(atoms, positions) < EXACT
    fixed = end.systems.fixed.numpy()
    assert fixed.any()
    assert np.array_equal(positions[fixed].view(np.int64), atoms.positions[fixed].view(np.int64))
    assert (np.abs(positions - atoms.positions).max(axis=1)[4:] > 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize("mask", [(True, False, False), (False, True, True)])
def test_scaled_coordinates_in_an_oblique_cell(mask: tuple[bool, bool, bool]) -> None:
    """The forces along the free lattice vectors vanish, whichever way the structure is turned; ASE
    agrees where it is right.

    ASE projects forces with the cell in place of its transpose, so its end is a minimum only where
    the cell is symmetric: 15 degrees from the usual setting of a hexagonal one.
    """
    hold, held = [FixAtoms(range(4)), FixScaled([4, 5, 8], mask)], [4, 5, 8]
    ends = {}
    for turn in (0.0, 15.0):
        atoms = slab(hold, turn)
        (end,) = relaxed(atoms, fmax=1e-3)
        assert end.converged
        assert strayed(atoms, end.systems.positions.numpy()) < EXACT
        free = atoms.cell.array[~np.array(mask)]
        along = end.forces.numpy()[held] @ (free / np.linalg.norm(free, axis=1, keepdims=True)).T
        assert np.abs(along).max() < 1e-3
        ends[turn] = end
    turned = ends[0.0].systems.positions @ rotation_z(np.deg2rad(15.0))
    reference = slab(hold, 15.0)
    reference.calc = EMT()
    with BFGS(reference, logfile=None) as optimizer:
        assert optimizer.run(fmax=1e-3, steps=300)
    assert ends[0.0].energy == pytest.approx(ends[15.0].energy, abs=1e-10)
    assert torch.allclose(turned, ends[15.0].systems.positions, atol=1e-6, rtol=0)
    assert ends[15.0].energy == pytest.approx(reference.get_potential_energy(), abs=1e-5)
    assert np.abs(ends[15.0].systems.positions.numpy() - reference.positions).max() < 2e-3


def test_two_planes_on_one_atom_leave_their_line_and_a_third_nothing() -> None:
    planes = [FixedPlane(8, (1, 0.2, 0)), FixedPlane([8, 9], (1, 1, 0.5))]
    atoms = slab([FixAtoms(range(8)), *planes])
    (end,) = relaxed(atoms, fmax=0.01)
    positions = end.systems.positions.numpy()
    assert end.converged
    assert strayed(atoms, positions) < EXACT

    # the minimum over the three numbers that are left
    along, normal = np.cross(planes[0].dir, planes[1].dir), planes[1].dir
    in_plane = np.linalg.svd(normal[None])[2][1:]
    trial = atoms.copy()
    trial.set_constraint()
    trial.calc = EMT()

    def energy(x: np.ndarray) -> float:
        trial.positions[8:] = atoms.positions[8:] + np.stack([x[0] * along, x[1:] @ in_plane])
        return trial.get_potential_energy()

    best = minimize(energy, np.zeros(3), method="BFGS", options={"gtol": 1e-4})
    assert end.energy == pytest.approx(best.fun, abs=1e-3)
    assert np.abs(positions - trial.positions).max() < 0.01

    atoms.set_constraint([*atoms.constraints, FixedPlane(8, (0, 0, 1))])
    assert from_atoms(atoms).fixed[8].all()


def test_planes_that_are_one_count_once() -> None:
    once, twice = molecule("H2O"), molecule("H2O")
    once.set_constraint(FixedPlane(0, OBLIQUE))
    twice.set_constraint(
        [
            FixedPlane(0, OBLIQUE),
            FixedPlane(0, np.round(np.array(OBLIQUE) / np.linalg.norm(OBLIQUE), 8)),
        ]
    )
    assert torch.allclose(
        from_atoms(once).projector, from_atoms(twice).projector, atol=1e-7, rtol=0
    )


def test_a_fixed_component_and_a_plane() -> None:
    atoms = slab(
        [FixAtoms(range(8)), FixCartesian(8, (True, False, False)), FixedPlane(8, (3.0, 1.0, 1.0))]
    )
    (end,) = relaxed(atoms)
    move = end.systems.positions.numpy()[8] - atoms.positions[8]
    assert move[0] == 0.0
    assert abs(move[1] + move[2]) < EXACT < 1e-3 < abs(move[1])
    assert end.systems.fixed[8].tolist() == [True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ASE))
def test_a_mixed_batch_is_its_structures_one_by_one(name: str) -> None:
    loose = rattled(molecule("H2O"))
    given = [slab(HOLD[kind]) for kind in ("atoms", "plane", "many")] + [
        loose,
        slab([FixScaled([4, 8], (True, False, False))]),
    ]
    given.append(slab(HOLD["line"]))
    together = relaxed(from_atoms(given), name, max_steps=20)
    joined = relaxed(concatenate([from_atoms(atoms) for atoms in given]), name, max_steps=20)
    for atoms, one, other in zip(given, together, joined, strict=True):
        (alone,) = relaxed(atoms, name, max_steps=20)
        for end in (one, other):
            assert torch.equal(end.systems.positions, alone.systems.positions)
            assert torch.equal(end.forces, alone.forces)
            assert (end.energy, end.fmax, end.n_steps, end.status) == (
                alone.energy,
                alone.fmax,
                alone.n_steps,
                alone.status,
            )


def test_many_steps_of_any_optimizer_do_not_drift() -> None:
    given = [slab(HOLD[kind]) for kind in ("plane", "line", "many")] + [
        slab([FixScaled([4, 8], (True, False, False))])
    ]
    for atoms in given:
        atoms.positions += (40.0, -70.0, 30.0)  # where a unit in the last place is 1.4e-14 Angstrom
    start = from_atoms(given)
    noise = torch.Generator().manual_seed(1)
    systems = start
    for _ in range(1000):
        displacement = 0.2 * torch.randn(
            systems.positions.shape, generator=noise, dtype=torch.float64
        )
        systems = replace(systems, positions=displaced(systems, displacement, start.positions))
    for atoms, end in zip(given, to_atoms(systems), strict=True):
        assert strayed(atoms, end.positions) < 5e-14
    assert float((systems.positions - start.positions).norm(dim=1).max()) > 5.0


class Sideways:
    """Walks along every axis, whatever the forces say."""

    def init(self, systems: Systems) -> Systems:
        return systems

    def step(self, systems: Systems, energy: torch.Tensor, forces: torch.Tensor, state: Systems):
        return torch.full_like(systems.positions, -0.03), state


def springs(systems: Systems) -> Prediction:
    energy = 2.5 * sum_per_system((systems.positions**2).sum(1), systems)
    return Prediction(energy=energy, forces=-5.0 * systems.positions)


def test_an_optimizer_that_heeds_no_force_is_held_all_the_same() -> None:
    atoms = molecule("H2O")
    atoms.positions += (1.0, 2.0, 3.0)
    atoms.set_constraint([FixedPlane(0, OBLIQUE), FixedLine(1, OBLIQUE)])
    (end,) = relax_systems(from_atoms(atoms), springs, Sideways(), 1e-9, 20)
    assert (end.status, end.n_steps) == (Status.MAX_STEPS, 20)
    assert strayed(atoms, end.systems.positions.numpy()) < EXACT
    assert (np.abs(end.systems.positions.numpy() - atoms.positions).max(axis=1) > 0.02).all()


def test_fmax_counts_allowed_directions_only() -> None:
    atoms = Atoms("CO", positions=[[0, 0.6, 0.8], [3, 4, 0]])
    atoms.set_constraint([FixAtoms([0]), FixedLine(1, (0, 3, 4))])
    now = ATOMS_ONLY.evaluate(from_atoms(atoms), springs)
    assert float(now.fmax) == pytest.approx(5.0 * 4 * 0.6, abs=1e-12)
    assert torch.equal(now.forces, springs(from_atoms(atoms)).forces)  # raw
    atoms.set_constraint([FixAtoms([0]), FixedPlane(1, (3, 4, 0))])
    (end,) = relax_systems(from_atoms(atoms), springs, make_optimizer("bfgs"), 0.05, 10)
    assert (end.status, end.n_steps) == (Status.CONVERGED, 0)


def test_the_projected_force_is_the_gradient_along_allowed_displacements() -> None:
    systems = from_atoms(slab(HOLD["many"]))
    potential = AsePotential(calculator=EMT())
    forces = apply_constraints(ATOMS_ONLY.evaluate(systems, potential).forces, systems)
    for seed in range(3):
        noise = torch.randn(
            systems.positions.shape,
            generator=torch.Generator().manual_seed(seed),
            dtype=torch.float64,
        )
        step = 1e-4 * apply_constraints(noise, systems)
        up, down = (
            potential(replace(systems, positions=systems.positions + sign * step)).energy
            for sign in (1, -1)
        )
        assert float(down - up) / 2 == pytest.approx(float((forces * step).sum()), abs=1e-9)
    assert torch.allclose(apply_constraints(forces, systems), forces, atol=1e-14, rtol=0)


def test_only_structures_that_need_a_projector_have_one() -> None:
    plain, plane = from_atoms(slab(HOLD["components"])), from_atoms(slab(HOLD["plane"]))
    assert plain.projector is None
    assert from_atoms(slab(HOLD["axis plane"])).projector is None
    assert from_atoms(slab(HOLD["scaled height"])).projector is None
    both = concatenate([plain, plane, plain])
    assert both.projector is not None
    assert torch.equal(both.projector[:10], torch.eye(3, dtype=torch.float64).expand(10, 3, 3))
    assert torch.equal(
        select(both, both, torch.tensor([False, True, False])).projector, plane.projector
    )
    assert concatenate([plain, plain]).projector is None
    assert torch.equal(both.to("cpu").projector, both.projector)
    assert plain.to("cpu").projector is None
    held = (plane.projector != torch.eye(3, dtype=torch.float64)).flatten(1).any(1)
    assert torch.nonzero(held)[:, 0].tolist() == [5, 8, 9]


@pytest.mark.parametrize("kind", ["plane", "line", "many", "components"])
def test_round_trips(kind: str) -> None:
    atoms = slab(HOLD[kind])
    systems = from_atoms(atoms)
    with_template, without = to_atoms(systems, [atoms])[0], to_atoms(systems)[0]
    assert [type(c) for c in with_template.constraints] == [type(c) for c in atoms.constraints]
    assert {type(c) for c in without.constraints} == {type(c) for c in atoms.constraints}
    forces = np.random.default_rng(0).normal(size=(len(atoms), 3))
    expected, found = forces.copy(), forces.copy()
    for result, given in ((expected, atoms), (found, without)):
        for constraint in given.constraints:
            constraint.adjust_forces(given, result)
    assert np.abs(found - expected).max() < 1e-14
    (again,) = to_atoms(from_atoms(without))
    assert [c.todict() for c in again.constraints] == [c.todict() for c in without.constraints]


def test_scaled_coordinates_come_back_as_plane_and_line() -> None:
    atoms = slab([FixScaled([4], (True, False, False)), FixScaled([5, 8], (True, False, True))])
    (back,) = to_atoms(from_atoms(atoms))
    plane, line = back.constraints
    assert isinstance(plane, FixedPlane)
    assert isinstance(line, FixedLine)
    assert (plane.index.tolist(), line.index.tolist()) == ([4], [5, 8])
    assert np.abs(atoms.cell[1:] @ plane.dir).max() < 1e-14 < 1 < abs(atoms.cell[0] @ plane.dir)
    assert np.abs(np.cross(atoms.cell[1], line.dir)).max() < 1e-14


def test_partial_selective_dynamics_of_pymatgen() -> None:
    movable = [[False, True, True], [True, True, True], [True, True, False]]
    cell = Lattice.from_parameters(3, 3, 20, 90, 90, 120)
    structure = Structure(cell, ["Pt", "O", "O"], [[0, 0, 0.1], [0, 0, 0.2], [0, 0, 0.3]])
    for site, flags in zip(structure, movable, strict=True):
        site.properties |= {"selective_dynamics": flags, "tags": 1}
    systems = from_structure(structure)
    atoms = Atoms(
        "PtO2", positions=structure.cart_coords, cell=cell.matrix, pbc=True, tags=[1, 1, 1]
    )
    atoms.set_constraint([FixScaled([k], ~np.array(flags)) for k, flags in enumerate(movable)])
    expected = from_atoms(atoms)
    assert torch.equal(systems.fixed, expected.fixed)
    assert systems.fixed.tolist() == [[False] * 3, [False] * 3, [False, False, True]]
    assert torch.equal(systems.projector, expected.projector)


def test_a_missing_cell_vector_is_filled_in_as_ase_does() -> None:
    atoms = slab([FixScaled([8], (True, False, False))])
    whole = from_atoms(atoms).projector
    atoms.cell[2] = 0.0
    assert torch.allclose(from_atoms(atoms).projector, whole, atol=1e-14, rtol=0)
    alone = molecule("H2O")
    alone.set_constraint(FixScaled([1], (True, False, False)))
    assert from_atoms(alone).fixed.tolist() == [[False] * 3, [True, False, False], [False] * 3]


def test_refused_in_a_sentence() -> None:
    atoms = molecule("H2O")
    atoms.set_constraint(FixedPlane([0, 7], OBLIQUE))
    with pytest.raises(InputError, match=r"FixedPlane has indices \[0, 7\], but there are 3"):
        from_atoms(atoms)
    atoms.set_cell([[3, 0, 0], [6, 0, 0], [0, 0, 3]])
    atoms.set_constraint(FixScaled([0], (False, False, True)))
    with pytest.raises(InputError, match="FixScaled needs linearly independent lattice"):
        from_atoms(atoms)
    flat = FixedLine(0, OBLIQUE)
    flat.dir = np.full(3, np.nan)
    atoms.set_constraint(flat)
    with pytest.raises(InputError, match="FixedLine has the direction"):
        from_atoms(atoms)
    with pytest.raises(InputError, match=r"FrechetCellFilter; expected ase\.Atoms"):
        from_atoms(FrechetCellFilter(slab()))


def test_a_mask_alone_cannot_say_what_a_plane_holds() -> None:
    atoms = slab([FixedPlane([5], (0, 0, 1))])
    assert fixed_mask(atoms)[5].tolist() == [False, False, True]
    atoms.set_constraint([FixAtoms([0]), FixedPlane([5], OBLIQUE)])
    with pytest.raises(
        InputError, match="FixedPlane fixes atom 5 along directions that are not Cartesian axes"
    ):
        fixed_mask(atoms)


def test_frames_keep_planes_and_lines(tmp_path: Path) -> None:
    systems = from_atoms(slab([*HOLD["many"], FixScaled([6], (True, False, False))]))
    path = tmp_path / "frame.extxyz"
    path.write_text(format_extxyz(systems, {}, {}))
    back = from_atoms(read(path))
    assert torch.equal(back.fixed, systems.fixed)
    assert torch.allclose(back.projector, systems.projector, atol=1e-15, rtol=0)
    text = format_extxyz(from_atoms(slab(HOLD["components"])), {}, {})
    assert "geocalc_plane_normal" not in text
    atoms = read(path)
    atoms.arrays["geocalc_plane_normal"] = np.ones(len(atoms))
    with pytest.raises(InputError, match="column geocalc_plane_normal must have three numbers"):
        from_atoms(atoms)


def test_a_run_keeps_planes_in_its_files_and_knows_them_apart(tmp_path: Path) -> None:
    model = NamedPotential(potential=AsePotential(calculator=EMT()), name="emt", hash="emt-1")
    settings = RelaxSettings(model="emt", steps=200, traj="full", dtype="float64")
    other = [FixAtoms(range(4)), FixedPlane([5, 8, 9], (1.0, -2.0, 0.8))]
    for number, hold in enumerate((HOLD["plane"], HOLD["plane"], other)):
        job = Input(sid="slab", atoms=slab(hold))
        folder = open_run_folder(tmp_path, model, settings, resume=number > 0)
        (record,) = run_relaxation([job], model, settings, folder)
        assert record.status == "CONVERGED"
        assert len((tmp_path / "results.jsonl").read_text().splitlines()) == (1, 1, 2)[number]
        final = read(tmp_path / "relaxed.extxyz", index=0)
        assert strayed(job.atoms, final.positions) < EXACT
        expected, found = from_atoms(job.atoms), from_atoms(final)
        assert torch.allclose(found.projector, expected.projector, atol=1e-15, rtol=0)
        assert torch.equal(found.fixed, expected.fixed)


def test_relaxed_copies_keep_their_constraints(tmp_path: Path) -> None:
    atoms = slab(HOLD["plane"])
    (result,) = geocalc.relax(atoms, write_model(tmp_path), dtype="float64", steps=5, fmax=1e-4)
    assert result.record.n_steps == 5
    assert [c.todict() for c in result.atoms.constraints] == [c.todict() for c in atoms.constraints]
    assert strayed(atoms, result.atoms.positions) < EXACT
    assert np.abs(result.atoms.positions - atoms.positions).max() > 1e-3
