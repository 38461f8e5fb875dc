from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.optimize import BFGS, FIRE
from torch import Tensor

from geocalc.ase_potential import AsePotential
from geocalc.errors import InputError
from geocalc.io import from_atoms
from geocalc.optim import OPTIMIZERS, Bfgs, Fire, make_optimizer
from geocalc.optim.base import Ragged, join_free, split_free
from geocalc.relaxation import Relaxation, relax_systems
from geocalc.systems import Systems, select

STEPS = 25
PARITY = 1e-10  # Angstrom
ASE = {"fire": FIRE, "bfgs": BFGS}


def mixed_batch() -> list[Atoms]:
    """Twenty structures of several sizes: fixed layers, single fixed components, clean slabs, free molecules."""
    rng = np.random.default_rng(3)
    batch = []
    for metal in ("Cu", "Pt", "Ni", "Au"):
        for build, guest, height in ((fcc111, "CO", 1.8), (fcc100, "O", 1.2), (fcc111, "H", 1.0), (fcc100, "", 0.0)):
            slab = build(metal, (2, 2, 2), vacuum=6.0)
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


def relax_with_paths(batch: list[Atoms], name: str) -> tuple[list[Relaxation], list[list[np.ndarray]]]:
    """Relaxations, and the positions of every structure after every step."""
    paths: list[list[np.ndarray]] = [[] for _ in batch]

    def observe(live: Systems, now, progress) -> None:
        for k, rows in zip(progress.index.tolist(), torch.split(live.positions, live.counts.tolist()), strict=True):
            paths[k].append(rows.numpy())

    ends = relax_systems(from_atoms(batch), AsePotential(calculator=EMT()), make_optimizer(name), 0.05, STEPS, observe)
    return ends, paths


@pytest.fixture(scope="module", params=sorted(ASE))
def relaxed(request: pytest.FixtureRequest):
    name = request.param
    batch = mixed_batch()
    return name, batch, *relax_with_paths(batch, name)


def test_every_step_of_a_mixed_batch_equals_ase(relaxed) -> None:
    name, batch, ends, paths = relaxed
    assert len(batch) >= 20
    for atoms, end, path in zip(batch, ends, paths, strict=True):
        reference = atoms.copy()
        reference.calc = EMT()
        steps = [reference.positions.copy()]
        with ASE[name](reference, logfile=None) as optimizer:
            optimizer.attach(lambda r=reference, s=steps: s.append(r.positions.copy()))
            converged = optimizer.run(fmax=0.05, steps=STEPS)
        steps = steps[1:]  # the observer sees the start too
        assert (len(path), end.n_steps, end.converged) == (len(steps), optimizer.nsteps, converged)
        assert max(np.abs(ours - theirs).max() for ours, theirs in zip(path, steps, strict=True)) < PARITY


def test_structures_leave_the_batch_at_their_own_time(relaxed) -> None:
    ends = relaxed[2]
    assert 0 < sum(end.converged for end in ends) < len(ends)
    assert len({end.n_steps for end in ends}) >= 4


def test_batch_mates_do_not_matter(relaxed) -> None:
    name, batch, _, paths = relaxed
    chosen = [0, 5, 10, 16]
    mates = [paths[k] for k in chosen]
    alone = [relax_with_paths([batch[k]], name)[1][0] for k in chosen]
    shuffled = relax_with_paths([batch[k] for k in reversed(chosen)], name)[1][::-1]
    for together, single, other in zip(mates, alone, shuffled, strict=True):
        assert np.array_equal(np.stack(together), np.stack(single))
        assert np.array_equal(np.stack(together), np.stack(other))


def quadratic_step(name: str, positions: Tensor, systems: Systems, n_steps: int) -> Tensor:
    """Positions after some steps on the energy |positions|^2 / 2, without any model."""
    optimizer = make_optimizer(name)
    state = optimizer.init(systems)
    for _ in range(n_steps):
        forces = (-systems.positions).masked_fill(systems.fixed, 0.0)
        displacement, state = optimizer.step(systems, torch.zeros(systems.n_systems), forces, state)
        systems = replace(systems, positions=systems.positions + displacement)
    return systems.positions


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_finds_the_minimum_of_a_quadratic_and_holds_fixed_components(name: str) -> None:
    systems = from_atoms(molecule("CH3OH"))
    fixed = torch.zeros_like(systems.fixed)
    fixed[0, 1] = True
    systems = replace(systems, fixed=fixed)
    end = quadratic_step(name, systems.positions, systems, 120)
    free = ~systems.fixed
    assert float(end[free].abs().max()) < 1e-3
    assert torch.equal(end[systems.fixed], systems.positions[systems.fixed])


@pytest.mark.parametrize(("optimizer", "norm"), [(Fire(), "structure"), (Bfgs(), "atom")])
def test_no_step_is_longer_than_allowed(optimizer, norm: str) -> None:
    systems = from_atoms(molecule("CH3OH"))
    forces = 1e4 * torch.ones_like(systems.positions)
    state = optimizer.init(systems)
    displacement, _ = optimizer.step(systems, torch.zeros(1), forces, state)
    length = displacement.norm() if norm == "structure" else displacement.norm(dim=1).max()
    assert float(length) == pytest.approx(0.2, abs=1e-12)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_zero_and_constant_forces_give_finite_steps(name: str) -> None:
    systems = from_atoms([molecule("CO"), molecule("H2O")])
    optimizer = make_optimizer(name)
    state = optimizer.init(systems)
    for forces in (torch.zeros_like(systems.positions), torch.ones_like(systems.positions), torch.ones_like(systems.positions)):
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
    parts = split_free(systems.positions, systems)
    assert [len(part) for part in parts] == [4, 7]
    assert torch.equal(join_free(parts, systems), systems.positions.masked_fill(systems.fixed, 0.0))


def test_states_are_sliced_by_select() -> None:
    systems = from_atoms([molecule("CO"), molecule("H2O"), molecule("H2")])
    chosen = torch.tensor([True, False, True])
    state = select(Bfgs().init(systems), systems, chosen)
    assert isinstance(state.hessian, Ragged)
    assert [tuple(h.shape) for h in state.hessian] == [(6, 6), (6, 6)]
    assert state.positions.shape == (4, 3)


def test_unknown_optimizer_names_the_nearest() -> None:
    assert isinstance(make_optimizer("BFGS"), Bfgs)
    with pytest.raises(InputError, match="'bgfs'; did you mean 'bfgs'"):
        make_optimizer("bgfs")
    with pytest.raises(InputError, match="bfgs, fire"):
        make_optimizer("quantum annealing")
