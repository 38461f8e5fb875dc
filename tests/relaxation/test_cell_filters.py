"""Cells that relax: the steps of ASE's filters, batches, and what comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixScaled
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from scipy.linalg import expm, expm_frechet
from torch import Tensor

from geocalc.core.matrices import determinant, exponential_and_derivative, inverse, matmul
from geocalc.core.systems import Prediction, Systems, concatenate
from geocalc.errors import InputError
from geocalc.optim import OPTIMIZERS, make_optimizer
from geocalc.optim.force_constants import _springs, spring_hessians
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.cell_filters import CellFilter
from geocalc.relaxation.loop import relax_systems
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status
from geocalc.structures.convert import from_atoms

STEPS = 12
PARITY = 1e-10  # Angstrom
ASE = {"bfgs": BFGS, "fire": FIRE, "lbfgs": LBFGS}
FILTERS = {"frechet": FrechetCellFilter, "unit": UnitCellFilter}
IN_PLANE, AXES = (1, 1, 0, 0, 0, 1), (1, 1, 1, 0, 0, 0)


def crystal(element: str, seed: int, strain: float = 0.03) -> Atoms:
    """A cubic cell of four atoms, or an alloy of copper and gold, rattled and strained in every
    direction.
    """
    atoms = bulk("Cu" if element == "CuAu" else element, cubic=True)
    if element == "CuAu":
        atoms.symbols[:2] = "Au"
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, strain, (3, 3))), scale_atoms=True)
    return atoms


def slab() -> Atoms:
    """Four layers under strain in the plane, of which two keep their fractional places."""
    atoms = fcc111("Cu", (1, 1, 4), vacuum=5.0, periodic=True)
    atoms.set_cell(atoms.cell.array @ np.diag([1.03, 0.98, 1.0]), scale_atoms=True)
    atoms.positions += np.random.default_rng(5).normal(0, 0.05, atoms.positions.shape)
    atoms.set_tags([0, 0, 1, 1])
    atoms.set_constraint(FixAtoms([0, 1]))
    return atoms


def batch() -> list[Atoms]:
    return [crystal("Cu", 1), crystal("Al", 2), crystal("CuAu", 3), slab()]


Path = list[tuple[np.ndarray, np.ndarray]]


def ours(
    given: list[Atoms], name: str, cell_filter: CellFilter, steps: int = STEPS
) -> tuple[list[Relaxation], list[Path]]:
    """Relaxations, and positions and cell of every structure at every evaluation."""
    paths: list[Path] = [[] for _ in given]

    def observe(live: Systems, now, progress) -> None:
        assert torch.equal(now.positions, live.positions)
        assert torch.equal(now.cell, live.cell)
        rows = torch.split(now.positions, live.counts.tolist())
        for k, positions, cell in zip(progress.index.tolist(), rows, now.cell, strict=True):
            paths[k].append((positions.numpy(), cell.numpy()))

    potential = AsePotential(calculator=EMT(), stress=True)
    ends = relax_systems(
        from_atoms(given),
        potential,
        make_optimizer(name),
        0.02,
        steps,
        observe,
        freedom=cell_filter,
    )
    return ends, paths


class Recorder(EMT):
    """EMT that notes the geometries it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Path = []

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:
        self.seen.append((atoms.positions.copy(), atoms.cell.array.copy()))
        super().calculate(atoms, properties, system_changes)


def theirs(atoms: Atoms, name: str, kind: str, **options) -> tuple[Path, bool]:
    """The same of ASE, and whether it converged."""
    reference = atoms.copy()
    reference.calc = Recorder()
    with ASE[name](FILTERS[kind](reference, **options), logfile=None) as optimizer:
        converged = optimizer.run(fmax=0.02, steps=STEPS)
    return reference.calc.seen, bool(converged)


CASES = [
    ("bfgs", "frechet", {}, {}),
    ("fire", "frechet", {}, {}),
    ("lbfgs", "frechet", {}, {}),
    ("bfgs", "unit", {}, {}),
    ("fire", "unit", {}, {}),
    ("lbfgs", "unit", {}, {}),
    (
        "bfgs",
        "frechet",
        {"mask": IN_PLANE, "pressure": 0.02},
        {"mask": IN_PLANE, "scalar_pressure": 0.02},
    ),
    (
        "bfgs",
        "unit",
        {"mask": (0, 1, 1, 1, 0, 1), "pressure": -0.02},
        {"mask": (0, 1, 1, 1, 0, 1), "scalar_pressure": -0.02},
    ),
    ("fire", "frechet", {"mask": AXES}, {"mask": AXES}),
    ("lbfgs", "frechet", {"mask": (0,) * 6}, {"mask": (0,) * 6}),
    ("bfgs", "frechet", {"hydrostatic": True}, {"hydrostatic_strain": True}),
    ("bfgs", "unit", {"hydrostatic": True}, {"hydrostatic_strain": True}),
    ("bfgs", "frechet", {"constant_volume": True}, {"constant_volume": True}),
    ("bfgs", "unit", {"constant_volume": True}, {"constant_volume": True}),
]
SLOW = [k for k in range(len(CASES)) if k % 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "options", "of_ase"),
    [*CASES[::6], *(pytest.param(*CASES[k], marks=pytest.mark.slow) for k in SLOW)],
)
def test_every_step_equals_that_of_ase(name: str, kind: str, options: dict, of_ase: dict) -> None:
    given = batch()
    ends, paths = ours(given, name, CellFilter(kind=kind, **options))
    for atoms, end, path in zip(given, ends, paths, strict=True):
        evaluated, converged = theirs(atoms, name, kind, **of_ase)
        assert len(path) == len(evaluated) == end.n_steps + 1
        assert end.converged == converged
        for (positions, cell), (expected, expected_cell) in zip(path, evaluated, strict=True):
            assert np.abs(positions - expected).max() < PARITY
            assert np.abs(cell - expected_cell).max() < PARITY


@pytest.mark.parametrize("kind", ["frechet", "unit"])
def test_fractional_coordinates_that_are_held_stay(kind: str) -> None:
    atoms = crystal("Cu", 4)
    atoms.set_constraint(FixScaled([1, 2], mask=(True, False, True)))
    before = atoms.get_scaled_positions(wrap=False)
    (end,), _ = ours([atoms], "bfgs", CellFilter(kind=kind))
    assert np.abs(end.systems.cell[0].numpy() - atoms.cell.array).max() > 0.01
    after = np.linalg.solve(end.systems.cell[0].numpy().T, end.systems.positions.numpy().T).T
    np.testing.assert_allclose(
        after[[1, 2]][:, [0, 2]], before[[1, 2]][:, [0, 2]], rtol=0, atol=1e-13
    )
    assert np.abs(after[1, 1] - before[1, 1]) > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "unit", "mask": IN_PLANE},
        {"hydrostatic": True},
        {"constant_volume": True},
        {"pressure": 0.03, "mask": AXES},
        {"mask": (0,) * 6},
    ],
    ids=["all", "in plane", "volume", "shape", "axes under pressure", "fixed"],
)
def test_quasi_newton_needs_far_fewer_calls_than_bfgs(options: dict) -> None:
    given = [crystal("Cu", 1), crystal("Pt", 2), crystal("CuAu", 3), slab()]
    systems = concatenate([from_atoms(atoms, use_tags=False) for atoms in given])
    potential, freedom = AsePotential(calculator=EMT(), stress=True), CellFilter(**options)
    quick, plain = (
        relax_systems(systems, potential, OPTIMIZERS[name](), 0.02, 200, freedom=freedom)
        for name in ("quasi-newton", "bfgs")
    )
    assert all(end.converged for end in quick)
    calls = [sum(end.n_evaluations for end in ends) for ends in (quick, plain)]
    assert 1.5 * calls[0] < calls[1]
    for atoms, end, other in zip(given, quick, plain, strict=True):
        assert end.energy == pytest.approx(other.energy, abs=0.02)
        deformation = np.linalg.solve(atoms.cell.array, end.systems.cell[0].numpy())
        if options.get("hydrostatic"):
            assert np.abs(deformation - deformation[0, 0] * np.eye(3)).max() < 1e-9
        if options.get("constant_volume"):
            assert np.linalg.det(deformation) == pytest.approx(1.0, abs=1e-9)
        if options.get("mask"):
            held = ~freedom.free.numpy()
            assert np.abs((deformation - np.eye(3))[held]).max() < 1e-12


def test_strains_stretch_the_springs() -> None:
    """The Hessian of springs is that of their energy, by finite differences of strained cells."""
    freedom = CellFilter(kind="unit")
    coordinates = freedom.coordinates(from_atoms(crystal("CuAu", 3), use_tags=False))
    (stack,) = spring_hessians(coordinates)
    hessian = stack.matrix[0][: 3 * 7, : 3 * 7]  # four atoms, then the strain
    springs = _springs(coordinates)

    def energy(rows: np.ndarray) -> float:
        move = torch.from_numpy(rows.reshape(7, 3))
        strain = move[4:] / 4
        apart = move[springs.senders] - move[springs.receivers] + springs.vectors @ strain.T
        anchors = springs.anchor[:7, None] * move * move
        of_springs = 0.25 * torch.einsum("ea,eab,eb->", apart, springs.blocks, apart)
        return float(of_springs + 0.5 * anchors.sum())

    rng = np.random.default_rng(0)
    for _ in range(5):
        rows = rng.normal(size=(7, 3))
        rows[4:] += rows[4:].T  # strains are symmetric
        assert energy(rows) == pytest.approx(0.5 * rows.ravel() @ hessian @ rows.ravel())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfgs", "fire", "lbfgs", "quasi-newton"])
def test_batch_mates_do_not_matter(name: str) -> None:
    given, cell_filter = batch(), CellFilter(pressure=0.01)
    _, together = ours(given, name, cell_filter)
    for k, path in enumerate(together):
        _, (alone,) = ours([given[k]], name, cell_filter)
        for (positions, cell), (other, other_cell) in zip(path, alone, strict=True):
            assert np.array_equal(positions, other)
            assert np.array_equal(cell, other_cell)


@pytest.mark.slow
@pytest.mark.parametrize("pressure", [0.0, 0.03])
def test_results_belong_to_the_final_cell(pressure: float) -> None:
    (end,), _ = ours([crystal("Cu", 6, strain=0.01)], "bfgs", CellFilter(pressure=pressure), 60)
    atoms = Atoms(
        "Cu4",
        end.systems.positions.numpy(),
        cell=end.systems.cell[0].numpy(),
        pbc=True,
        calculator=EMT(),
    )
    assert end.status is Status.CONVERGED
    assert end.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(end.forces.numpy(), atoms.get_forces(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        end.stress.numpy(), atoms.get_stress(voigt=False), rtol=0, atol=1e-12
    )
    assert np.abs(end.stress.numpy() + pressure * np.eye(3)).max() < 0.02 * 4 / atoms.get_volume()
    assert end.systems.numbers.tolist() == [29] * 4
    assert not bool(end.systems.fixed.any())


@pytest.mark.parametrize("kind", ["frechet", "unit"])
def test_forces_are_minus_the_gradient_of_the_enthalpy(kind: str) -> None:
    cell_filter = CellFilter(kind=kind, pressure=0.02)
    potential = AsePotential(calculator=EMT(), stress=True)
    start = cell_filter.coordinates(from_atoms(crystal("CuAu", 8)))
    rng, step = np.random.default_rng(0), 1e-5
    # off the start, where logarithm and strain differ
    there = start.positions + torch.from_numpy(rng.normal(0, 0.1, (7, 3)))
    forces = cell_filter.evaluate(replace(start, positions=there), potential).forces
    for _ in range(4):
        along = torch.from_numpy(rng.normal(size=(7, 3)))
        up, down = (
            cell_filter.evaluate(
                replace(start, positions=there + s * step * along), potential
            ).energy
            for s in (1, -1)
        )
        assert float((up - down) / (2 * step)) == pytest.approx(
            -float((forces * along).sum()), abs=1e-6
        )


def test_masks_that_steps_would_leave_are_refused() -> None:
    with pytest.raises(InputError, match="the mask yz frees a shear without the other strains"):
        CellFilter(mask=(0, 0, 0, 1, 0, 0))
    with pytest.raises(InputError, match="the mask xx,yy,zz,yz,xz frees a shear"):
        CellFilter(mask=(1, 1, 1, 1, 1, 0))
    with pytest.raises(InputError, match="a constant volume needs xx, yy and zz"):
        CellFilter(mask=IN_PLANE, constant_volume=True)
    with pytest.raises(InputError, match="one value for each of xx yy zz yz xz xy, got 3"):
        CellFilter(mask=(1, 1, 1))
    assert CellFilter(kind="unit", mask=(0, 0, 0, 1, 0, 0)).free.sum() == 2


def test_structures_without_a_cell_and_potentials_without_stress_are_refused() -> None:
    with pytest.raises(InputError, match="three independent cell vectors and a periodic direction"):
        ours([crystal("Cu", 1), molecule("H2O")], "bfgs", CellFilter())
    box = molecule("H2O", vacuum=4.0)
    with pytest.raises(InputError, match="a periodic direction"):
        ours([box], "bfgs", CellFilter())
    with pytest.raises(InputError, match="gives no stress"):
        relax_systems(
            from_atoms(crystal("Cu", 1)),
            AsePotential(calculator=EMT()),
            make_optimizer("bfgs"),
            freedom=CellFilter(),
        )


@pytest.mark.slow
def test_a_cell_that_runs_away_has_exploded() -> None:
    def pulled(systems: Systems) -> Prediction:
        stress = torch.eye(3, dtype=torch.float64).expand(systems.n_systems, 3, 3) * -0.05
        energy = torch.zeros(systems.n_systems, dtype=torch.float64)
        return Prediction(energy=energy, forces=torch.zeros_like(systems.positions), stress=stress)

    (end,) = relax_systems(
        from_atoms(crystal("Al", 1)),
        pulled,
        make_optimizer("bfgs"),
        0.01,
        300,
        freedom=CellFilter(),
    )
    assert end.status is Status.EXPLODED
    assert end.n_steps < 100
    big = from_atoms(crystal("Al", 1).repeat(3))
    (end,) = relax_systems(big, pulled, make_optimizer("lbfgs"), 0.01, 60, freedom=CellFilter())
    # 12 Angstrom in the rows of 108 atoms are a strain of 11 %
    assert end.status is Status.MAX_STEPS


def test_warm_starts_of_relaxing_cells_see_atoms_alone() -> None:
    asked = []

    def towards_the_lattice(systems: Systems) -> Tensor:
        asked.append(systems)
        places = from_atoms([strained("Cu"), strained("Al")]).positions
        return places - systems.positions

    def strained(element: str) -> Atoms:
        return crystal(element, 1, strain=0.0)

    given = [strained("Cu"), strained("Al")]
    for atoms in given:
        atoms.positions[0, 0] += 0.1
    paths: list[Tensor] = []
    relax_systems(
        from_atoms(given),
        AsePotential(calculator=EMT(), stress=True),
        make_optimizer("bfgs"),
        max_steps=2,
        observer=lambda live, now, progress: paths.append(live.positions),
        warm_start=towards_the_lattice,
        freedom=CellFilter(),
    )
    assert [systems.numbers.tolist() for systems in asked] == [[29] * 4 + [13] * 4]
    moved = (paths[1] - paths[0]).numpy()
    assert moved[[0, 4], 0] == pytest.approx(-0.1, abs=1e-12)
    assert np.abs(np.delete(moved.ravel(), [0, 12])).max() < 1e-12


def matrices(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.4, (5, 3, 3)))


def test_small_matrices_equal_those_of_scipy() -> None:
    given, along = matrices(0), matrices(1)
    value, slope = exponential_and_derivative(given, along)
    for k in range(5):
        expected, derivative = expm_frechet(given[k].numpy(), along[k].numpy())
        np.testing.assert_allclose(value[k].numpy(), expm(given[k].numpy()), rtol=0, atol=1e-14)
        np.testing.assert_allclose(value[k].numpy(), expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose(slope[k].numpy(), derivative, rtol=0, atol=1e-14)
    torch.testing.assert_close(matmul(given, along), given @ along, rtol=0, atol=1e-14)
    torch.testing.assert_close(determinant(given), torch.linalg.det(given), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        inverse(value) @ value,
        torch.eye(3, dtype=torch.float64).expand(5, 3, 3),
        rtol=0,
        atol=1e-13,
    )
