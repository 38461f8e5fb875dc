"""Where forces do not fall any more: the noise floor is told from slow progress."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from helpers.structures import adslab, rattled, systems_of

from geocalc.core.systems import Potential, Prediction, Systems, concatenate, select, sum_per_system
from geocalc.optim import OPTIMIZERS, make_optimizer
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.loop import relax_systems
from geocalc.relaxation.noise_floor import (
    HEAD_START,
    WINDOW,
    Trail,
    Visit,
    follow,
    no_trails,
    noise_floors,
)
from geocalc.relaxation.status import Status
from geocalc.runs.forms import Input
from geocalc.runs.roles import NamedPotential
from geocalc.runs.runner import relax_inputs
from geocalc.runs.settings import RelaxSettings
from geocalc.structures.convert import fixed_mask

NOISE = 0.05  # eV/Angstrom
SPACING = 4.0  # Angstrom between hollows
METHODS = sorted(
    set(OPTIMIZERS) - {"gradient-descent"}
)  # which is on its way for longer than anybody waits


def in_hollow(positions: torch.Tensor) -> torch.Tensor:
    return positions - SPACING * torch.round(positions / SPACING)


@dataclass(frozen=True)
class Bowl:
    """Atoms in hollows far from each other, soft along x and stiffer outside."""

    def __call__(self, systems: Systems) -> Prediction:
        x, stiffness = (
            in_hollow(systems.positions),
            torch.tensor([2.0, 10.0, 20.0], dtype=torch.float64),
        )
        energy = sum_per_system((0.5 * stiffness * x**2 + x**4).sum(1), systems)
        return Prediction(energy=energy, forces=-stiffness * x - 4 * x**3)


@dataclass(frozen=True)
class Noisy:
    """Forces with errors that are a function of the positions of each structure, but follow no
    rule.
    """

    potential: Potential = Bowl()
    size: float = NOISE

    def __call__(self, systems: Systems) -> Prediction:
        prediction = self.potential(systems)
        errors = []
        for k in range(systems.n_systems):
            positions = systems.positions[systems.system_idx == k].numpy()
            seed = int.from_bytes(hashlib.sha256(positions.tobytes()).digest()[:8], "big")
            errors.append(np.random.default_rng(seed).normal(scale=self.size, size=positions.shape))
        return replace(
            prediction, forces=prediction.forces + torch.from_numpy(np.concatenate(errors))
        )


@dataclass(frozen=True)
class Whirl:
    """Forces that are no gradient: an atom that follows them gains on a closed path."""

    potential: Potential = Bowl()
    size: float = 0.5

    def __call__(self, systems: Systems) -> Prediction:
        prediction, x = self.potential(systems), in_hollow(systems.positions)
        curl = torch.stack(
            (torch.sin(4 * x[:, 1] + 1), -torch.sin(4 * x[:, 0] + 1), torch.sin(4 * x[:, 0])), dim=1
        )
        return replace(prediction, forces=prediction.forces + self.size * curl)


def scattered(n_atoms: int = 6, seed: int = 0, size: float = 0.3) -> Systems:
    positions = np.random.default_rng(seed).normal(scale=size, size=(n_atoms, 3))
    sites = SPACING * np.array([[k % 3, k // 3 % 3, k // 9] for k in range(n_atoms)])
    return systems_of(Atoms(f"Cu{n_atoms}", positions=sites + positions))


def slab(adsorbate: str, seed: int) -> Systems:
    atoms = rattled(adslab(adsorbate, size=(2, 2, 2)), seed=seed)
    atoms.set_constraint(FixAtoms(range(4)))
    return replace(systems_of(atoms), fixed=torch.from_numpy(fixed_mask(atoms)))


@pytest.mark.parametrize("name", METHODS)
def test_noise_ends_a_relaxation_and_is_measured(name: str) -> None:
    start = scattered()
    end = relax_systems(start, Noisy(), make_optimizer(name), 0.02, 300)[0]
    assert end.status is Status.NOISE_FLOOR
    assert NOISE / 2 < end.noise < 2 * NOISE
    assert end.n_evaluations <= 120
    assert not end.converged
    assert float(Bowl()(end.systems).energy) == end.energy < 0.05
    assert f"{end.noise:.2g} eV/Angstrom" in end.sentence


def test_what_converges_above_the_noise_does_so() -> None:
    for name in METHODS:
        end = relax_systems(scattered(), Noisy(), make_optimizer(name), 0.3, 300)[0]
        assert end.status is Status.CONVERGED
        assert math.isnan(end.noise)
        assert end.sentence == Status.CONVERGED.sentence


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfgs", "fire", "quasi-newton"])
def test_slow_progress_on_emt_is_no_noise(name: str) -> None:
    ends = relax_systems(
        slab("CO", 1), AsePotential(calculator=EMT()), make_optimizer(name), 0.001, 250
    )
    assert ends[0].status is Status.CONVERGED
    assert ends[0].n_evaluations > WINDOW


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_no_smooth_potential_has_a_noise_floor(name: str) -> None:
    for potential, fmax in ((Bowl(), 1e-11), (Valley(), 1e-3)):
        end = relax_systems(
            scattered(size=1.0, n_atoms=3), potential, make_optimizer(name), fmax, 150
        )[0]
        assert end.status in (Status.CONVERGED, Status.MAX_STEPS)


@dataclass(frozen=True)
class Valley:
    """A bent and narrow valley, whose bottom falls slowly."""

    def __call__(self, systems: Systems) -> Prediction:
        positions = systems.positions.detach().requires_grad_()
        with torch.enable_grad():
            x, y, z = in_hollow(positions).unbind(1)
            per_atom = 0.1 * (1 - x) ** 2 + 10 * (y - x**2) ** 2 + 5 * z**2
            energy = sum_per_system(per_atom, systems)
            forces = -torch.autograd.grad(energy.sum(), positions)[0]
        return Prediction(energy=energy.detach(), forces=forces)


@pytest.mark.parametrize("name", METHODS)
def test_forces_that_go_round_in_circles_never_use_up_the_steps(name: str) -> None:
    end = relax_systems(scattered(), Whirl(), make_optimizer(name), 0.001, 300)[0]
    assert end.status in (Status.NOISE_FLOOR, Status.CONVERGED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfgs", "fire2"])
def test_it_does_not_depend_on_batch_mates(name: str) -> None:
    alone = [scattered(n_atoms=4 + k, seed=k) for k in range(4)]
    together = relax_systems(concatenate(alone), Noisy(), make_optimizer(name), 0.02, 150)
    assert len({end.n_evaluations for end in together}) > 1
    for systems, end in zip(alone, together, strict=True):
        expected = relax_systems(systems, Noisy(), make_optimizer(name), 0.02, 150)[0]
        assert (end.status, end.n_evaluations, end.noise) == (
            expected.status,
            expected.n_evaluations,
            expected.noise,
        )
        assert torch.equal(end.systems.positions, expected.systems.positions)


def test_atoms_that_are_fixed_are_not_counted() -> None:
    systems = scattered(n_atoms=30)
    fixed = torch.zeros_like(systems.fixed)
    fixed[5:] = True
    end = relax_systems(replace(systems, fixed=fixed), Noisy(), make_optimizer("bfgs"), 0.02, 300)[
        0
    ]
    assert end.status is Status.NOISE_FLOOR
    assert NOISE / 2 < end.noise < 2 * NOISE


def test_the_record_says_what_the_noise_is() -> None:
    model = NamedPotential(potential=Noisy(), name="noisy", hash="noisy-1")
    atoms = Atoms("Cu6", positions=scattered().positions.numpy())
    settings = RelaxSettings(model="noisy", dtype="float64", fmax=0.01, traj="none")
    (end,) = relax_inputs([Input(sid="a", atoms=atoms)], model, settings)
    assert (end.record.status, end.record.converged) == ("NOISE_FLOOR", False)
    assert "as small as their errors" in end.record.stop_reason
    (alone,) = relax_systems(
        systems_of(atoms),
        Noisy(),
        make_optimizer(settings.optimizer),
        settings.fmax,
        settings.steps,
    )
    assert f"{alone.noise:.2g} eV/Angstrom" in end.record.stop_reason


def test_a_trail_keeps_a_window_and_the_lowest_before() -> None:
    trail = Trail()
    for k in range(WINDOW + 3):
        trail = trail.add(
            Visit(energy=10.0 - k, fmax=1.0 + k, force=1.0, work=0.0, step=0.0, change=0.0)
        )
    assert len(trail.visits) == WINDOW
    assert (trail.energy, trail.fmax) == (8.0, 1.0)


def test_the_first_evaluations_are_not_looked_at_whatever_batch_mates_do() -> None:
    batch = concatenate([scattered(3), scattered(5, seed=1)])
    now = Bowl()(batch)
    for counts, lengths in (([1, HEAD_START], [0, 0]), ([HEAD_START, HEAD_START + 1], [0, 1])):
        trails = follow(
            no_trails(batch), batch, now.energy, now.forces, now.energy, torch.tensor(counts)
        )
        assert [len(trail.visits) for trail in trails.trails] == lengths
        assert torch.equal(trails.forces, now.forces)


def test_trails_are_sliced_with_their_batch() -> None:
    batch = concatenate([scattered(3), scattered(5, seed=1)])
    trails, potential = no_trails(batch), Bowl()
    for step in (0.0, 0.1):
        here = replace(batch, positions=batch.positions + step)
        now = potential(here)
        late = torch.full((2,), HEAD_START + 1)
        trails = follow(trails, here, now.energy, now.forces, now.energy, late)
    second = select(trails, batch, torch.tensor([False, True]))
    (trail,) = second.trails
    assert trail.visits[1].step == pytest.approx(15 * 0.1**2)
    assert trail.visits[1].work == pytest.approx(
        trail.visits[0].energy - trail.visits[1].energy, rel=0.1
    )
    assert second.positions.shape == (5, 3)
    assert second.n_free.tolist() == [5.0]
    assert all(math.isnan(noise) for noise in noise_floors(trails))
