from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.optimize import BFGS, FIRE, FIRE2, LBFGS
from helpers.tiers import tiered
from torch import Tensor

from geocalc.core.systems import Systems, select
from geocalc.errors import InputError
from geocalc.optim import (
    OPTIMIZERS,
    Bfgs,
    ConjugateGradient,
    Fire,
    Fire2,
    GradientDescent,
    Lbfgs,
    make_optimizer,
)
from geocalc.optim.base import FreeComponents, Optimizer, Ragged, dots_per_system
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.loop import relax_systems
from geocalc.relaxation.state import Relaxation
from geocalc.structures.convert import from_atoms

STEPS = 25
PARITY = 1e-10  # Angstrom
ASE = {"fire": FIRE, "fire2": FIRE2, "bfgs": BFGS, "lbfgs": LBFGS}


def mixed_batch() -> list[Atoms]:
    """Structures of several sizes: fixed layers, single fixed components, clean slabs, free
    molecules.
    """
    rng = np.random.default_rng(3)
    batch = []
    for metal in ("Cu", "Pt", "Ni", "Au"):
        for build, guest, height in (
            (fcc111, "CO", 1.8),
            (fcc100, "O", 1.2),
            (fcc111, "H", 1.0),
            (fcc100, "", 0.0),
        ):
            slab = build(metal, (2, 2, 3 if (metal, guest) == ("Cu", "CO") else 2), vacuum=6.0)
            tags = (slab.get_tags() == 1).astype(int)
            if guest:
                add_adsorbate(slab, molecule(guest) if len(guest) > 1 else guest, height, "bridge")
            slab.set_tags(np.append(tags, np.full(len(slab) - len(tags), 2)))
            slab.set_constraint(FixAtoms(range(4)))
            if guest == "H":
                slab.constraints.append(FixCartesian([5, 6], mask=(True, False, True)))
            slab.positions += rng.normal(0, 0.08, slab.positions.shape)
            batch.append(slab)
    for name in ("H2O", "CO", "NH3", "CH4"):
        guest = molecule(name)
        guest.positions += rng.normal(0, 0.08, guest.positions.shape)
        batch.append(guest)
    return batch


def relax_with_paths(
    batch: list[Atoms], name: str
) -> tuple[list[Relaxation], list[list[np.ndarray]]]:
    """Relaxations, and the positions of every structure after every step."""
    paths: list[list[np.ndarray]] = [[] for _ in batch]

    def observe(live: Systems, now, progress) -> None:
        for k, rows in zip(
            progress.index.tolist(), torch.split(live.positions, live.counts.tolist()), strict=True
        ):
            paths[k].append(rows.numpy())

    ends = relax_systems(
        from_atoms(batch),
        AsePotential(calculator=EMT()),
        make_optimizer(name),
        0.05,
        STEPS,
        observe,
    )
    return ends, paths


@pytest.fixture(scope="module", params=tiered(sorted(ASE), fast=["lbfgs"]))
def relaxed(request: pytest.FixtureRequest):
    name = request.param
    batch = mixed_batch()
    return name, batch, *relax_with_paths(batch, name)


class Recorder(EMT):
    """EMT that notes the geometries it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:
        self.seen.append(atoms.positions.copy())
        super().calculate(atoms, properties, system_changes)


def path_of_ase(atoms: Atoms, name: str) -> tuple[list[np.ndarray], bool]:
    """The geometries that ASE evaluates, and whether it converged."""
    reference = atoms.copy()
    reference.calc = Recorder()
    with ASE[name](reference, logfile=None) as optimizer:
        converged = optimizer.run(fmax=0.05, steps=STEPS)
    return reference.calc.seen, converged


@pytest.mark.slow
def test_every_step_of_a_mixed_batch_equals_ase(relaxed) -> None:
    name, batch, ends, paths = relaxed
    assert len(batch) >= 20
    different = 0
    for atoms, end, path in zip(batch, ends, paths, strict=True):
        evaluated, converged = path_of_ase(atoms, name)
        assert len(path) == end.n_evaluations == end.n_steps + 1
        assert (
            max(np.abs(ours - theirs).max() for ours, theirs in zip(path, evaluated, strict=False))
            < PARITY
        )
        if len(path) == len(evaluated):
            assert end.converged == converged
        # ASE's FIRE2 evaluates twice in a step that goes back, and looks only once whether it has
        # converged
        else:
            assert len(path) < len(evaluated)
            assert end.converged or end.n_steps == STEPS
            different += 1
    assert (different > 0) == (name == "fire2")


@pytest.mark.slow
def test_structures_leave_the_batch_at_their_own_time(relaxed) -> None:
    ends = relaxed[2]
    assert 0 < sum(end.converged for end in ends) < len(ends)
    assert len({end.n_steps for end in ends}) >= 4


@pytest.mark.slow
def test_batch_mates_do_not_matter(relaxed) -> None:
    name, batch, _, paths = relaxed
    chosen = [0, 5, 10, 16]
    mates = [paths[k] for k in chosen]
    alone = [relax_with_paths([batch[k]], name)[1][0] for k in chosen]
    shuffled = relax_with_paths([batch[k] for k in reversed(chosen)], name)[1][::-1]
    for together, single, other in zip(mates, alone, shuffled, strict=True):
        assert np.array_equal(np.stack(together), np.stack(single))
        assert np.array_equal(np.stack(together), np.stack(other))


def quadratic_path(
    optimizer: Optimizer, systems: Systems, n_steps: int, stiffness: float = 1.0
) -> list[Tensor]:
    """Positions before and after every step on the energy stiffness |positions|^2 / 2, without any
    model.
    """
    state, path = optimizer.init(systems), [systems.positions]
    for _ in range(n_steps):
        forces = (-stiffness * systems.positions).masked_fill(systems.fixed, 0.0)
        displacement, state = optimizer.step(systems, torch.zeros(systems.n_systems), forces, state)
        systems = replace(systems, positions=systems.positions + displacement)
        path.append(systems.positions)
    return path


def partly_fixed() -> Systems:
    systems = from_atoms(molecule("CH3OH"))
    fixed = torch.zeros_like(systems.fixed)
    fixed[0, 1] = True
    return replace(systems, fixed=fixed)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_finds_the_minimum_of_a_quadratic_and_holds_fixed_components(name: str) -> None:
    systems = partly_fixed()
    end = quadratic_path(
        make_optimizer(name), systems, 120, 20.0 if name == "gradient-descent" else 1.0
    )[-1]
    free = ~systems.fixed
    assert float(end[free].abs().max()) < 1e-3
    assert torch.equal(end[systems.fixed], systems.positions[systems.fixed])


@pytest.mark.parametrize(
    ("optimizer", "norm"),
    [
        (Fire(), "structure"),
        (Fire2(), "structure"),
        (Bfgs(), "atom"),
        (Lbfgs(), "atom"),
        (GradientDescent(), "atom"),
        (ConjugateGradient(), "atom"),
    ],
)
def test_no_step_is_longer_than_allowed(optimizer, norm: str) -> None:
    systems = from_atoms([molecule("CH3OH"), molecule("CO")])
    strong = systems.system_idx[:, None] == 0
    forces = torch.where(strong, 1e4, 1e-4) * torch.ones_like(systems.positions)
    displacement, _ = optimizer.step(systems, torch.zeros(2), forces, optimizer.init(systems))
    length, weak = (
        displacement[:6].norm() if norm == "structure" else displacement[:6].norm(dim=1).max(),
        displacement[6:],
    )
    assert float(length) == pytest.approx(0.2, abs=1e-12)
    assert 0.0 < float(weak.max()) < 1e-5


def test_gradient_descent_goes_along_the_forces() -> None:
    systems = from_atoms([molecule("CO"), molecule("H2O")])
    forces = torch.linspace(-3.0, 3.0, 15, dtype=torch.float64).reshape(5, 3)
    optimizer = GradientDescent(rate=0.01)
    displacement, _ = optimizer.step(systems, torch.zeros(2), forces, optimizer.init(systems))
    assert torch.allclose(displacement, 0.01 * forces, atol=1e-15, rtol=0)


def test_fire2_goes_half_a_step_back_from_an_ascent() -> None:
    systems = from_atoms(molecule("CO"))
    optimizer = Fire2()
    forces = torch.ones_like(systems.positions)
    first, state = optimizer.step(systems, torch.zeros(1), forces, optimizer.init(systems))
    back, rested = optimizer.step(systems, torch.zeros(1), -forces, state)
    # half the way of a time step that is half as long
    assert torch.allclose(back, -0.25 * first, atol=1e-15, rtol=0)
    assert float(rested.velocity.abs().max()) == 0.0
    again, _ = optimizer.step(systems, torch.zeros(1), -forces, rested)
    # from rest, with that time step
    assert torch.allclose(again, -0.25 * first, atol=1e-15, rtol=0)


def test_conjugate_gradients_reach_the_minimum_of_a_quadratic_in_as_many_lines_as_dimensions() -> (
    None
):
    systems = from_atoms(molecule("CO"))
    stiffness = torch.tensor([[3.0, 5.0, 11.0], [20.0, 31.0, 40.0]], dtype=torch.float64)
    optimizer = ConjugateGradient(max_step=100.0, accuracy=0.0)
    state, start = optimizer.init(systems), systems.positions - 0.3
    for _ in range(2 * 6):  # a trial and a corrector step for each line
        forces = -stiffness * (systems.positions - start)
        displacement, state = optimizer.step(systems, torch.zeros(1), forces, state)
        systems = replace(systems, positions=systems.positions + displacement)
    assert float((systems.positions - start).abs().max()) < 1e-10


def test_conjugate_gradients_leave_out_the_corrector_step_after_a_good_trial_step() -> None:
    systems = from_atoms(molecule("CO"))
    optimizer = ConjugateGradient(curvature=10.0, max_step=100.0)
    first = torch.ones_like(systems.positions)
    trial, state = optimizer.step(systems, torch.zeros(1), first, optimizer.init(systems))
    assert torch.allclose(trial, first / 10.0, atol=1e-15, rtol=0)
    good, _ = optimizer.step(systems, torch.zeros(1), 0.1 * first, state)
    # a new line, from forces a tenth as large, as long as the last line to its minimum
    assert torch.allclose(good, 0.1 * first / 9.0, atol=1e-15, rtol=0)
    corrected, _ = optimizer.step(systems, torch.zeros(1), -first, state)
    assert torch.allclose(corrected, -first / 20.0, atol=1e-15, rtol=0)


def two_loops(
    pairs: list[tuple[np.ndarray, np.ndarray]], gradient: np.ndarray, curvature: float
) -> np.ndarray:
    """The step of L-BFGS as its recursion is written in textbooks."""
    rest, weights = gradient.copy(), []
    for step, change in reversed(pairs):
        weights.append(step @ rest / (step @ change))
        rest -= weights[-1] * change
    rest /= curvature
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        rest += step * (weight - change @ rest / (step @ change))
    return -rest


@pytest.mark.parametrize("memory", [1, 3, 100])
def test_lbfgs_forgets_all_but_its_last_steps(memory: int) -> None:
    systems = from_atoms(molecule("CO"))
    start, stiffness = (
        systems.positions,
        torch.linspace(3.0, 40.0, 6, dtype=torch.float64).reshape(2, 3),
    )
    optimizer = Lbfgs(memory=memory, max_step=100.0, damping=0.5)
    state, pairs, last = optimizer.init(systems), [], None
    for _ in range(30):
        x = systems.positions
        gradient = (stiffness * (x - start + 0.3) + 2.0 * (x - start) ** 3).numpy().ravel()
        if last is not None:
            pairs = [*pairs, (x.numpy().ravel() - last[0], gradient - last[1])][-memory:]
        last = (x.numpy().ravel(), gradient)
        displacement, state = optimizer.step(
            systems, torch.zeros(1), -torch.from_numpy(gradient).reshape(2, 3), state
        )
        assert (
            np.abs(displacement.numpy().ravel() - 0.5 * two_loops(pairs, gradient, 70.0)).max()
            < PARITY
        )
        systems = replace(systems, positions=x + displacement)
    assert [len(history.pairs) for history in state.history] == [min(memory, 29)]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_state_is_not_changed_by_the_steps_taken_from_it(name: str) -> None:
    systems = partly_fixed()
    optimizer = make_optimizer(name)
    state = optimizer.init(systems)
    for _ in range(3):
        forces = (-systems.positions).masked_fill(systems.fixed, 0.0)
        displacement, state = optimizer.step(systems, torch.zeros(1), forces, state)
        systems = replace(systems, positions=systems.positions + displacement)
    first, then = optimizer.step(systems, torch.zeros(1), forces, state)
    moved = replace(systems, positions=systems.positions + first)
    expected, _ = optimizer.step(
        moved, torch.zeros(1), forces.flip(1).masked_fill(systems.fixed, 0.0), then
    )
    optimizer.step(systems, torch.zeros(1), 3.0 * forces, state)  # another way from the same state
    assert torch.equal(optimizer.step(systems, torch.zeros(1), forces, state)[0], first)
    assert torch.equal(
        optimizer.step(moved, torch.zeros(1), forces.flip(1).masked_fill(systems.fixed, 0.0), then)[
            0
        ],
        expected,
    )


def test_bfgs_takes_negative_curvatures_as_positive() -> None:
    systems = from_atoms(molecule("CO"))
    optimizer = Bfgs(curvature=10.0, max_step=100.0)
    move, gradient = (
        torch.zeros_like(systems.positions),
        torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(2, 3),
    )
    move[0, 0] = 0.1
    _, state = optimizer.step(systems, torch.zeros(1), -gradient, optimizer.init(systems))
    there = replace(systems, positions=systems.positions + move)
    changed = gradient - 4.0 * move  # the energy curves down along the move, by 4 eV/Angstrom^2
    displacement, _ = optimizer.step(there, torch.zeros(1), -changed, state)
    curvature = torch.full_like(changed, 10.0)
    curvature[0, 0] = 4.0
    assert torch.allclose(displacement, -changed / curvature, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_zero_and_constant_forces_give_finite_steps(name: str) -> None:
    systems = from_atoms([molecule("CO"), molecule("H2O")])
    optimizer = make_optimizer(name)
    state = optimizer.init(systems)
    for forces in (
        torch.zeros_like(systems.positions),
        torch.ones_like(systems.positions),
        torch.ones_like(systems.positions),
    ):
        displacement, state = optimizer.step(systems, torch.zeros(2), forces, state)
        assert bool(displacement.isfinite().all())
        systems = replace(systems, positions=systems.positions + displacement)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_structures_without_free_components_stay(name: str) -> None:
    systems = from_atoms([molecule("CO"), molecule("H2O")])
    systems = replace(systems, fixed=(systems.system_idx == 0)[:, None].expand(-1, 3))
    optimizer = make_optimizer(name)
    forces = torch.ones_like(systems.positions).masked_fill(systems.fixed, 0.0)
    displacement, _ = optimizer.step(systems, torch.zeros(2), forces, optimizer.init(systems))
    assert float(displacement[:2].abs().max()) == 0.0
    assert float(displacement[2:].abs().min()) > 0.0


def test_free_components_split_and_join() -> None:
    systems = from_atoms([molecule("CO"), molecule("H2O")])
    systems = replace(systems, fixed=torch.arange(15).reshape(5, 3) % 4 == 0)
    free = FreeComponents.of(systems)
    parts = free.split(systems.positions, 2.0 * systems.positions)
    assert [part.shape for part in parts] == [(2, size) for size in free.sizes] == [(2, 4), (2, 7)]
    single, double = (
        free.join([part[k] for part in parts], 100.0, systems.positions) for k in (0, 1)
    )
    assert torch.equal(single, systems.positions.masked_fill(systems.fixed, 0.0))
    assert torch.equal(double, 2.0 * single)


def test_scalar_products_do_not_depend_on_batch_mates() -> None:
    systems = from_atoms([molecule("CO"), molecule("CH3OH"), molecule("C6H6")])
    field = torch.sin(1e3 * systems.positions)
    together = dots_per_system([(field, field), (field, systems.positions)], systems)
    for k, expected in enumerate(together):
        chosen = torch.arange(3) == k
        mine, alone = field[chosen[systems.system_idx]], select(systems, systems, chosen)
        assert dots_per_system([(mine, mine), (mine, alone.positions)], alone) == [expected]
        assert expected[0] == pytest.approx(float((mine * mine).sum()), rel=1e-13)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_rest_of_a_batch_goes_on_as_before_when_some_leave(name: str) -> None:
    systems = from_atoms([molecule("CO"), molecule("H2O"), molecule("H2")])
    chosen = torch.tensor([True, False, True])
    optimizer = make_optimizer(name)
    state = optimizer.init(systems)
    for _ in range(4):
        displacement, state = optimizer.step(systems, torch.zeros(3), -systems.positions, state)
        systems = replace(systems, positions=systems.positions + displacement)
    rest, rest_state = select(systems, systems, chosen), select(state, systems, chosen)
    for _ in range(4):
        displacement, state = optimizer.step(systems, torch.zeros(3), -systems.positions, state)
        systems = replace(systems, positions=systems.positions + displacement)
        displacement, rest_state = optimizer.step(rest, torch.zeros(2), -rest.positions, rest_state)
        rest = replace(rest, positions=rest.positions + displacement)
    assert torch.equal(rest.positions, systems.positions[chosen[systems.system_idx]])


def test_states_are_sliced_by_select() -> None:
    systems = from_atoms([molecule("CO"), molecule("H2O"), molecule("H2")])
    chosen = torch.tensor([True, False, True])
    state = select(Bfgs().init(systems), systems, chosen)
    assert isinstance(state.hessian, Ragged)
    assert [hessian.shape for hessian in state.hessian] == [(6, 6), (6, 6)]
    assert state.positions.shape == (4, 3)


def test_unknown_optimizer_names_the_nearest() -> None:
    assert isinstance(make_optimizer("BFGS"), Bfgs)
    with pytest.raises(InputError, match="'bgfs'; did you mean `bfgs`"):
        make_optimizer("bgfs")
    with pytest.raises(
        InputError, match="bfgs, conjugate-gradient, fire, fire2, lbfgs, gradient-descent"
    ):
        make_optimizer("quantum annealing")
