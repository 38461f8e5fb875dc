from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from helpers.structures import adslab, rattled, systems_of
from torch import Tensor

from geocalc.core.systems import Prediction, Systems, concatenate, sum_per_system
from geocalc.errors import InputError
from geocalc.optim import make_optimizer
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.loop import ATOMS_ONLY, relax_systems
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import FALL_LIMIT, MOVE_LIMIT, Status
from geocalc.structures.convert import fixed_mask

STIFFNESS = 5.0  # eV/Angstrom^2


@dataclass(frozen=True)
class Springs:
    """Every atom on a spring to the origin; `spoil` may change what is said of it."""

    spoil: Callable[[Systems, Tensor, Tensor], tuple[Tensor, Tensor]] = (
        lambda systems, energy, forces: (energy, forces)
    )

    def __call__(self, systems: Systems) -> Prediction:
        energy = 0.5 * STIFFNESS * sum_per_system((systems.positions**2).sum(1), systems)
        energy, forces = self.spoil(systems, energy, -STIFFNESS * systems.positions)
        return Prediction(energy=energy, forces=forces)


@dataclass(frozen=True)
class Slope:
    """The same force on every atom for ever: energy falls (or rises, for `steepness` below zero) by
    its size per Angstrom.
    """

    steepness: float
    force: float

    def __call__(self, systems: Systems) -> Prediction:
        x = sum_per_system(systems.positions[:, 0], systems)
        forces = torch.zeros_like(systems.positions)
        forces[:, 0] = self.force
        return Prediction(energy=-self.steepness * x, forces=forces)


def fixed_slab() -> Systems:
    atoms = rattled(adslab("CO", size=(2, 2, 2)))
    atoms.set_constraint([FixAtoms(range(4)), FixCartesian([4, 5], mask=(True, False, True))])
    return replace(systems_of(atoms), fixed=torch.from_numpy(fixed_mask(atoms)))


def dimer(x: float = 1.0) -> Systems:
    return systems_of(Atoms("CO", positions=[[x, 0, 0], [0, x, 0]]))


def relax_one(
    systems: Systems, potential, name: str = "bfgs", fmax: float = 0.05, max_steps: int = 100
) -> Relaxation:
    ends = relax_systems(systems, potential, make_optimizer(name), fmax, max_steps)
    assert len(ends) == 1
    return ends[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfgs", "fire", "fire2", "lbfgs"])
def test_fixed_components_end_bit_for_bit_where_they_started(name: str) -> None:
    systems = fixed_slab()
    end = relax_one(systems, AsePotential(calculator=EMT()), name)
    assert end.status is Status.CONVERGED
    assert end.n_steps > 3
    start, final = systems.positions, end.systems.positions
    assert torch.equal(
        start[systems.fixed].view(torch.int64), final[systems.fixed].view(torch.int64)
    )
    assert bool((start[~systems.fixed] != final[~systems.fixed]).all())


def test_results_belong_to_the_final_positions() -> None:
    potential = AsePotential(calculator=EMT())
    end = relax_one(fixed_slab(), potential)
    again = ATOMS_ONLY.evaluate(end.systems, potential)
    assert end.energy == pytest.approx(float(again.energy), abs=1e-12)
    assert end.fmax == pytest.approx(float(again.fmax), abs=1e-12)
    assert torch.allclose(end.forces, again.forces, atol=1e-12, rtol=0)
    # forces on fixed atoms are there, and do not count
    assert end.fmax < 0.05 < float(again.forces.norm(dim=1).max())


def test_converged_at_once_and_no_steps_allowed() -> None:
    end = relax_one(dimer(0.001), Springs())
    assert (end.status, end.n_steps, end.n_evaluations) == (Status.CONVERGED, 0, 1)
    end = relax_one(dimer(), Springs(), max_steps=0)
    assert (end.status, end.n_steps, end.n_evaluations) == (Status.SINGLE_POINT, 0, 1)
    assert end.energy == pytest.approx(STIFFNESS)
    assert end.fmax == pytest.approx(STIFFNESS)


def test_a_structure_that_cannot_move_has_converged() -> None:
    systems = dimer()
    end = relax_one(replace(systems, fixed=torch.ones_like(systems.fixed)), Springs())
    assert (end.status, end.n_steps, end.fmax) == (Status.CONVERGED, 0, 0.0)


def test_steps_and_evaluations_are_counted() -> None:
    end = relax_one(dimer(), Springs(), "fire", fmax=1e-6, max_steps=7)
    assert (end.status, end.n_steps, end.n_evaluations, end.converged) == (
        Status.MAX_STEPS,
        7,
        8,
        False,
    )


@dataclass(frozen=True)
class Nothing:
    """The state of an optimizer that remembers nothing."""


class Stride:
    """Walks on through the minimum and up again."""

    def init(self, systems: Systems) -> Nothing:
        return Nothing()

    def step(
        self, systems: Systems, energy: Tensor, forces: Tensor, state: Nothing
    ) -> tuple[Tensor, Nothing]:
        return torch.full_like(systems.positions, -0.15), state


def test_without_convergence_the_lowest_energy_is_kept() -> None:
    seen: list[tuple[float, Tensor]] = []
    end = relax_systems(
        dimer(),
        Springs(),
        Stride(),
        1e-9,
        7,
        lambda live, now, _: seen.append((float(now.energy[0]), live.positions)),
    )[0]
    lowest, where = min(seen, key=lambda pair: pair[0])
    assert seen[-1][0] > lowest + 1.0
    assert (end.status, end.n_steps) == (Status.MAX_STEPS, 7)
    assert end.energy == lowest
    assert torch.equal(end.systems.positions, where)


@pytest.mark.parametrize("part", ["energy", "forces"])
def test_nan_stops_one_structure_and_keeps_what_was_good(part: str) -> None:
    def spoil(systems: Systems, energy: Tensor, forces: Tensor) -> tuple[Tensor, Tensor]:
        near = (energy < 2.0) & (systems.counts == 2)
        if part == "energy":
            return energy.masked_fill(near, torch.nan), forces
        return energy, forces.masked_fill(near[systems.system_idx][:, None], torch.nan)

    batch = concatenate([dimer(), systems_of(molecule("H2O"))])
    bad, good = relax_systems(batch, Springs(spoil), make_optimizer("bfgs"), 0.05, 100)
    assert bad.status is Status.NON_FINITE
    assert 2.0 <= bad.energy < STIFFNESS
    assert bad.energy == pytest.approx(float(Springs()(bad.systems).energy))
    assert bool(bad.forces.isfinite().all())
    assert good.status is Status.CONVERGED


def test_nan_from_the_start_leaves_the_start() -> None:
    systems = dimer()
    end = relax_one(systems, Springs(lambda s, energy, forces: (energy * torch.nan, forces)))
    assert (end.status, end.n_steps) == (Status.NON_FINITE, 0)
    assert end.energy != end.energy
    assert torch.equal(end.systems.positions, systems.positions)


def test_nan_forces_on_fixed_atoms_alone_do_no_harm() -> None:
    systems = dimer()
    systems = replace(systems, fixed=torch.tensor([[True] * 3, [False] * 3]))
    end = relax_one(
        systems, Springs(lambda s, energy, forces: (energy, forces.masked_fill(s.fixed, torch.nan)))
    )
    assert end.status is Status.CONVERGED
    assert bool(end.systems.positions.isfinite().all())


@pytest.mark.parametrize(
    ("potential", "why"),
    [
        (Slope(steepness=0.001, force=5.0), "an atom moves away for ever"),
        (Slope(steepness=100.0, force=5.0), "the energy falls without end"),
        (Slope(steepness=-40.0, force=5.0), "the energy rises"),
        (Slope(steepness=1.0, force=1e7), "the force is absurd"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["bfgs", "fire"])
def test_explosions_are_stopped(potential: Slope, why: str, name: str) -> None:
    systems = systems_of(molecule("H2O"))
    end = relax_one(systems, potential, name, max_steps=400)
    assert end.status is Status.EXPLODED
    assert end.n_steps < 400
    moved = end.systems.positions - systems.positions
    assert float(moved.norm(dim=1).max()) <= MOVE_LIMIT
    fallen = float(potential(systems).energy) - end.energy
    # the geometry that was judged is not the one that is kept
    assert 0 <= fallen <= FALL_LIMIT * systems.n_atoms


def test_order_of_the_batch_is_kept() -> None:
    batch = concatenate([dimer(1.0), dimer(0.001), systems_of(molecule("H2O")), dimer(0.5)])
    ends = relax_systems(batch, Springs(), make_optimizer("fire"), 0.05, 300)
    assert [end.systems.n_atoms for end in ends] == [2, 2, 3, 2]
    assert len({end.n_steps for end in ends}) == 4  # they left at different times
    for end, systems in zip(
        ends, (dimer(1.0), dimer(0.001), systems_of(molecule("H2O")), dimer(0.5)), strict=True
    ):
        assert torch.equal(
            end.systems.positions,
            relax_one(systems, Springs(), "fire", max_steps=300).systems.positions,
        )


def test_inputs_are_not_changed() -> None:
    systems = fixed_slab()
    before = systems.positions.clone()
    relax_one(systems, AsePotential(calculator=EMT()), max_steps=3)
    assert torch.equal(systems.positions, before)


def test_every_status_has_a_sentence() -> None:
    for status in Status:
        assert status.sentence.endswith(".")
        assert status.value == status.name


@pytest.mark.parametrize(
    ("fmax", "max_steps"), [(0.0, 10), (-1.0, 10), (float("nan"), 10), (0.05, -1)]
)
def test_impossible_limits_are_refused(fmax: float, max_steps: int) -> None:
    with pytest.raises(InputError, match="fmax must be positive"):
        relax_one(dimer(), Springs(), fmax=fmax, max_steps=max_steps)


def test_a_potential_without_forces_is_refused() -> None:
    with pytest.raises(InputError, match="without forces"):
        relax_one(dimer(), lambda systems: Prediction(energy=torch.zeros(1)))


def test_ase_potential_gives_raw_forces_and_forgets_the_last_structure() -> None:
    slab, other = rattled(adslab("O")), rattled(adslab("O"), seed=8)
    batch = systems_of(slab, other, slab)
    prediction = AsePotential(calculator=EMT())(batch)
    for k, atoms in enumerate((slab, other, slab)):
        atoms = atoms.copy()
        atoms.calc = EMT()
        rows = prediction.forces[batch.system_idx == k].numpy()
        assert prediction.energy[k] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        assert rows == pytest.approx(atoms.get_forces(apply_constraint=False), abs=1e-12)


def test_relaxations_share_no_memory_with_the_batch() -> None:
    systems = concatenate([dimer(), systems_of(molecule("H2O"))])
    first, second = relax_systems(systems, Springs(), make_optimizer("fire"), 0.05, 3)
    for end in (first, second):
        assert end.systems.positions.untyped_storage().nbytes() == 8 * 3 * end.systems.n_atoms
        assert end.forces.untyped_storage().nbytes() == 8 * 3 * end.systems.n_atoms
        assert end.systems.system_idx.tolist() == [0] * end.systems.n_atoms
        assert end.systems.cell.shape == (1, 3, 3)
