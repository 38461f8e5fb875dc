"""Our own optimizer: fewer calls, promises of every optimizer, forces that are no gradient."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.optimize import BFGS

from geocalc import from_atoms
from geocalc.core.systems import Prediction, Systems, concatenate
from geocalc.optim import QuasiNewton, force_constants, quasi_newton, stacks
from geocalc.optim.force_constants import ANCHOR, spring_hessians
from geocalc.optim.quasi_newton import SLACK, Memory, _held_back, _learn, _lesson, _longest
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.loop import relax_systems
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status

FMAX = 0.05


def slabs() -> list[Atoms]:
    rng = np.random.default_rng(5)
    built = []
    for metal, adsorbate, height, site in (
        ("Cu", "O", 1.3, "fcc"),
        ("Pt", "H", 1.2, "ontop"),
        ("Ag", "C", 1.2, "hcp"),
        ("Al", "N", 1.4, "fcc"),
    ):
        atoms = fcc111(metal, (2, 2, 3), vacuum=8.0)
        add_adsorbate(atoms, adsorbate, height, site)
        built.append(atoms)
    square = fcc100("Ni", (2, 2, 3), vacuum=8.0)
    add_adsorbate(square, "O", 1.2, "hollow")
    for atoms in [*built, square]:
        atoms.set_constraint(FixAtoms([a.index for a in atoms if a.tag == 3]))
        atoms.rattle(0.1, rng=rng)
    return [*built, square]


def untagged(atoms: Atoms) -> Systems:
    return from_atoms(atoms, use_tags=False)


def relax(systems: Systems, **settings: float) -> list[Relaxation]:
    return relax_systems(
        systems, AsePotential(calculator=EMT()), QuasiNewton(**settings), FMAX, 200
    )


def test_needs_far_fewer_calls_than_ase_bfgs() -> None:
    ours, theirs = 0, 0
    for atoms in slabs():
        (ended,) = relax(untagged(atoms))
        assert ended.converged
        ours += ended.n_evaluations
        atoms.calc = EMT()
        optimizer = BFGS(atoms, logfile=None)
        assert optimizer.run(fmax=FMAX)
        theirs += optimizer.nsteps + 1
        assert ended.energy < atoms.get_potential_energy() + 0.02
    assert ours < 0.6 * theirs


def test_batch_equals_single_bitwise() -> None:
    members = [untagged(atoms) for atoms in slabs()]
    together = relax(concatenate(members))
    for one, other in zip(together, (relax(m)[0] for m in members), strict=True):
        assert torch.equal(one.systems.positions, other.systems.positions)
        assert (one.energy, one.n_evaluations) == (other.energy, other.n_evaluations)


def test_fixed_components_stay() -> None:
    atoms = slabs()[0]
    atoms.set_constraint([FixAtoms([0, 1, 2, 3]), FixCartesian(4, (True, False, True))])
    systems = untagged(atoms)
    (ended,) = relax(systems)
    assert ended.converged
    assert torch.equal(ended.systems.positions[systems.fixed], systems.positions[systems.fixed])
    assert not torch.equal(ended.systems.positions, systems.positions)


@pytest.mark.parametrize(
    "atoms",
    [Atoms("Cu"), Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]]), Atoms("H2", [[0, 0, 0], [0, 0, 9.0]])],
)
def test_molecules_and_lone_atoms(atoms: Atoms) -> None:
    (ended,) = relax(untagged(atoms))
    assert ended.converged


def test_everything_fixed() -> None:
    atoms = slabs()[0]
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    (ended,) = relax(untagged(atoms))
    assert (ended.status, ended.n_evaluations) == (Status.CONVERGED, 1)


def test_springs_are_positive_definite_and_know_bonds() -> None:
    atoms = slabs()[0]
    (stack,) = spring_hessians(untagged(atoms))
    (hessian,) = stack.matrix
    assert hessian.shape == (36, 36)  # nine free atoms, padded to twelve
    assert np.array_equal(hessian[27:], ANCHOR * np.eye(36)[27:])
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    assert np.linalg.eigvalsh(hessian).min() >= ANCHOR - 1e-12
    stretched, bonded = (
        next(iter(spring_hessians(untagged(Atoms("CO", [[0, 0, 0], [0, 0, d]]))))).matrix[0]
        for d in (1.4, 1.13)
    )
    assert bonded[2, 2] - ANCHOR > 5 * (stretched[2, 2] - ANCHOR) > 5


class Swirl:
    """A bowl, and a force around its axis that no energy explains."""

    def __init__(self, swirl: float, energy_falls: bool) -> None:
        self.swirl, self.energy_falls = swirl, energy_falls

    def __call__(self, systems: Systems) -> Prediction:
        x = systems.positions
        turned = torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], dim=1)
        energy = 2.0 * (x * x).sum(1).reshape(systems.n_systems, -1).sum(1)
        return Prediction(
            energy=energy if self.energy_falls else -energy, forces=-4.0 * x + self.swirl * turned
        )


@pytest.mark.parametrize("energy_falls", [True, False])
def test_forces_that_are_no_gradient(energy_falls: bool) -> None:
    systems = untagged(Atoms("Cu", [[0.7, 0.2, -0.4]]))
    (ended,) = relax_systems(systems, Swirl(1.0, energy_falls), QuasiNewton(), FMAX, 60)
    assert ended.converged
    assert ended.n_evaluations < 20


def test_noise_in_the_energy_does_not_stop_it() -> None:
    atoms = slabs()[1]
    generator = torch.Generator().manual_seed(0)
    exact = AsePotential(calculator=EMT())

    def noisy(systems: Systems) -> Prediction:
        told = exact(systems)
        noise = 1e-5 * torch.randn(told.energy.shape, generator=generator, dtype=torch.double)
        return Prediction(energy=told.energy + noise, forces=told.forces)

    (clean,) = relax(untagged(atoms))
    (ended,) = relax_systems(untagged(atoms), noisy, QuasiNewton(), FMAX, 100)
    assert ended.converged
    assert ended.n_evaluations <= clean.n_evaluations + 5


def test_trust_bounds_every_step() -> None:
    systems = untagged(slabs()[3])
    places: list[torch.Tensor] = []
    relax_systems(
        systems,
        AsePotential(calculator=EMT()),
        QuasiNewton(max_step=0.03),
        FMAX,
        8,
        lambda s, n, p: places.append(s.positions),
    )
    longest = [float((b - a).norm(dim=1).max()) for a, b in pairwise(places)]
    assert longest[0] == pytest.approx(0.03)
    assert max(longest) < 0.06  # back to the anchor and on from there


def held_back(forces: np.ndarray, inverse: np.ndarray, trust: float) -> tuple[np.ndarray, float]:
    step = inverse @ forces
    short, shift = _held_back(step[None], forces[None], inverse[None], np.array([trust]))
    return short[0], float(shift[0])


@pytest.mark.parametrize("trust", [0.1, 0.05, 0.02])
def test_a_step_that_is_held_back_is_the_step_of_a_raised_curvature(trust: float) -> None:
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    hessian = axes @ np.diag(np.geomspace(ANCHOR, 10 * ANCHOR, 30)) @ axes.T  # as of springs
    forces = rng.normal(size=30)
    step, shift = held_back(forces, np.linalg.inv(hessian), trust)
    assert shift > 0
    exact = np.linalg.solve(hessian + shift * np.eye(30), forces)
    assert np.abs(step - exact).max() < 0.03 * trust
    assert 0.6 * trust < float(_longest(step[None])[0]) <= (1 + SLACK) * trust


def test_a_soft_direction_does_not_hold_back_a_stiff_one() -> None:
    inverse = np.diag([100.0] + [0.1] * 11)
    # 50 Angstrom along the soft one, 0.1 along the stiff one
    forces = np.array([0.5, 0.0, 0.0, 1.0] + [0.0] * 8)
    step, _ = held_back(forces, inverse, 0.2)
    assert 0.07 < step[3] < 0.1


def learned(inverse: np.ndarray, move: np.ndarray, change: float) -> np.ndarray:
    """The inverse after a move along which the forces fell by `change` times the move, where twice
    the move was expected.
    """
    n = len(move)
    known = np.zeros((1, 3, n))
    known[0, 0], known[0, 1], known[0, 2] = move, 2.0 * move, (2.0 - change) * move
    one = np.ones(1)
    memory = Memory(one, one, one, 0 * one, one, one)
    lesson = _lesson(known @ known.swapaxes(1, 2), memory, 0.1)
    asked = (lesson.change[:, None] @ known)[:, 0]
    return _learn(inverse[None], move[None], asked, known[:, 2], lesson)[0][0]


def test_nothing_is_learnt_where_the_curvature_is_negative() -> None:
    inverse, move = np.diag([0.5, 0.25]), np.array([0.1, 0.0])
    assert np.array_equal(learned(inverse, move, -0.3), inverse)
    assert learned(inverse, move, 0.5)[0, 0] == pytest.approx(2.0)
    assert learned(inverse, move, 0.01)[0, 0] == pytest.approx(5.0)  # 0.1 of the expected one


def test_it_is_the_same_with_the_library_of_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    members = concatenate([untagged(atoms) for atoms in slabs()])
    expected = relax(members)
    for module in (stacks, quasi_newton, force_constants):
        monkeypatch.setattr(module, "as_array", lambda tensor: tensor)
    for one, other in zip(relax(members), expected, strict=True):
        assert one.n_evaluations == other.n_evaluations
        assert torch.allclose(one.systems.positions, other.systems.positions, atol=1e-9)
