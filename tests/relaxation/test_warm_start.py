"""Warm starts: what is proposed is tried once, and the potential has the last word."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from helpers.emt import FaultyEmt
from helpers.structures import cloud, systems_of
from torch import Tensor

from geocalc.core.systems import Prediction, Systems, concatenate, sum_per_system
from geocalc.errors import InputError
from geocalc.optim import make_optimizer
from geocalc.relaxation.loop import relax_systems
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status
from geocalc.relaxation.warm_start import Proposal, name_of
from geocalc.runs.batching import NEIGHBORS, Batches, Budget
from geocalc.runs.engine import NamedPotential, Outcome, Task, relax_task
from geocalc.runs.runner import Job, open_run_folder, relax_jobs
from geocalc.runs.settings import RelaxSettings

SETTINGS = RelaxSettings(
    optimizer="bfgs", model="bowl", dtype="float64", traj="full", fmax=0.01, workers=1
)


def bowl(systems: Systems) -> Prediction:
    x = systems.positions
    return Prediction(
        energy=sum_per_system((x**2 + x**4).sum(1), systems), forces=-2 * x - 4 * x**3
    )


@dataclass(frozen=True)
class Towards:
    """Proposes a share of the way to the minimum of the bowl."""

    share: float

    def __call__(self, systems: Systems) -> Tensor:
        return -self.share * systems.positions


def inwards_or_outwards(systems: Systems) -> Tensor:
    """A good proposal for structures of an even number of atoms, a bad one for 5 and 9, none for
    the others.
    """
    factors = torch.tensor(
        [-0.8 if n % 2 == 0 else 0.5 if n in (5, 9) else torch.nan for n in systems.counts.tolist()]
    )
    return factors[systems.system_idx, None] * systems.positions


def shorter_bonds(systems: Systems) -> Tensor:
    """Pulls a molecule together a little."""
    return -0.01 * (systems.positions - systems.positions.mean(dim=0))


def relax(
    systems: Systems, warm_start: Proposal | None, name: str = "bfgs", max_steps: int = 100
) -> list[Relaxation]:
    return relax_systems(
        systems, bowl, make_optimizer(name), 0.01, max_steps, warm_start=warm_start
    )


def start(n_atoms: int = 6, seed: int = 0) -> Systems:
    atoms = cloud(n_atoms, seed=seed)
    atoms.positions *= 0.3
    return systems_of(atoms)


def test_a_proposal_that_is_the_answer_costs_one_evaluation() -> None:
    end = relax(start(), Towards(1.0))[0]
    assert (end.status, end.n_evaluations, end.n_steps) == (Status.CONVERGED, 2, 1)
    assert float(end.systems.positions.abs().max()) == 0.0


@pytest.mark.parametrize("name", ["bfgs", "fire", "quasi-newton"])
def test_after_a_good_proposal_the_path_is_as_from_there(name: str) -> None:
    there = replace(start(), positions=start().positions + Towards(0.9)(start()))
    end, expected, cold = (
        relax(start(), Towards(0.9), name)[0],
        relax(there, None, name)[0],
        relax(start(), None, name)[0],
    )
    assert end.n_evaluations == expected.n_evaluations + 1 < cold.n_evaluations
    assert torch.equal(end.systems.positions, expected.systems.positions)


@pytest.mark.parametrize("name", ["bfgs", "fire", "quasi-newton"])
def test_a_bad_proposal_costs_one_evaluation_and_changes_nothing(name: str) -> None:
    end, cold = relax(start(), Towards(-0.5), name)[0], relax(start(), None, name)[0]
    assert (end.n_evaluations, end.n_steps) == (cold.n_evaluations + 1, cold.n_steps + 1)
    assert torch.equal(end.systems.positions, cold.systems.positions)
    assert end.energy == cold.energy


def test_a_lower_energy_with_larger_forces_is_refused_and_the_other_way_round() -> None:
    def double_well(systems: Systems) -> Prediction:
        """Lower on the right, and steeper there; flat far on the left, and high."""
        x = systems.positions[:, 0]
        energy = torch.where(x > 1, -5.0 - 3 * (x - 2) + 2 * (x - 2) ** 2, 0.5 * x**2)
        forces = torch.zeros_like(systems.positions)
        forces[:, 0] = torch.where(x > 1, 3 - 4 * (x - 2), -x)
        forces = forces.masked_fill((x < -1)[:, None], 1e-3)
        return Prediction(energy=sum_per_system(energy, systems), forces=forces)

    atom = systems_of(Atoms("H", positions=[[0.5, 0, 0]]))
    for target in (2.0, -3.0):
        move = torch.tensor([[target - 0.5, 0.0, 0.0]], dtype=torch.float64)
        end = relax_systems(
            atom,
            double_well,
            make_optimizer("bfgs"),
            0.01,
            50,
            warm_start=lambda s, move=move: move,
        )[0]
        assert end.status is Status.CONVERGED
        assert abs(float(end.systems.positions[0, 0])) < 0.02


@pytest.mark.parametrize("what", [torch.nan, torch.inf, 0.0])
def test_what_cannot_be_tried_costs_nothing(what: float) -> None:
    def nothing(systems: Systems) -> Tensor:
        displacement = torch.zeros_like(systems.positions)
        displacement[2, 1] = what
        return displacement

    end, cold = relax(start(), nothing)[0], relax(start(), None)[0]
    assert (end.n_evaluations, end.n_steps) == (cold.n_evaluations, cold.n_steps)
    assert torch.equal(end.systems.positions, cold.systems.positions)


def test_a_proposal_at_which_the_model_breaks_down_is_refused() -> None:
    def broken(systems: Systems) -> Prediction:
        prediction, far = bowl(systems), systems.positions.abs().max() > 20
        return replace(prediction, energy=prediction.energy * torch.nan) if far else prediction

    end = relax_systems(
        start(), broken, make_optimizer("bfgs"), 0.01, 100, warm_start=Towards(-100.0)
    )[0]
    assert end.status is Status.CONVERGED
    assert torch.equal(end.systems.positions, relax(start(), None)[0].systems.positions)


def test_constraints_hold_during_a_proposal() -> None:
    systems = start()
    fixed = torch.zeros_like(systems.fixed)
    fixed[1], fixed[2, 0] = True, True
    end = relax(replace(systems, fixed=fixed), Towards(0.7))[0]
    assert torch.equal(end.systems.positions[fixed], systems.positions[fixed])
    assert end.status is Status.CONVERGED


def test_single_points_and_converged_starts_are_not_warmed() -> None:
    asked: list[int] = []

    def ask(systems: Systems) -> Tensor:
        asked.append(systems.n_systems)
        return torch.ones_like(systems.positions)

    assert relax(start(), ask, max_steps=0)[0].n_evaluations == 1
    still = replace(start(), positions=1e-4 * start().positions)
    assert relax(still, ask)[0].n_evaluations == 1
    assert asked == []


def test_a_proposal_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(6,\); expected \(6, 3\)"):
        relax(start(), lambda systems: systems.positions[:, 0])


def tasks() -> list[Task]:
    return [Task(number=k, sid=f"s{k}", systems=start(4 + k, seed=k)) for k in range(7)]


def together(given: Iterable[Task], budget: Budget) -> dict[int, Outcome]:
    model = NamedPotential(potential=bowl, name="bowl", hash="bowl", warm_start=inwards_or_outwards)
    engine, found = Batches(model, SETTINGS, budget), {}
    for task in given:
        engine.add(task)
    while engine.n_open:
        found.update(engine.collect())
    return found


def test_no_path_depends_on_batch_mates() -> None:
    ends = relax(concatenate([task.systems for task in tasks()]), inwards_or_outwards)
    found = together(tasks(), Budget(edges=20 * NEIGHBORS))
    for task, end in zip(tasks(), ends, strict=True):
        alone = relax_task(task, bowl, SETTINGS, warm_start=inwards_or_outwards)
        for one in (end, found[task.number].relaxation):
            assert (one.n_evaluations, one.n_steps) == (alone.n_evaluations, alone.n_steps)
            assert torch.equal(one.systems.positions, alone.relaxation.systems.positions)
        steps = [step for step, _ in alone.path]
        assert (
            steps == [step for step, _ in found[task.number].path] == list(range(alone.n_steps + 1))
        )


def named(warm_start: Proposal | None) -> NamedPotential:
    return NamedPotential(
        potential=FaultyEmt(), name="emt", hash="emt", opener=FaultyEmt, warm_start=warm_start
    )


def test_workers_give_the_same() -> None:
    jobs = [Job(sid=name, atoms=molecule(name)) for name in ("H2O", "NH3")]
    found = []
    for workers in (1, 2):
        settings = RelaxSettings(model="emt", dtype="float64", traj="none", workers=workers)
        ends = sorted(relax_jobs(jobs, named(shorter_bonds), settings), key=lambda end: end.number)
        found.append([replace(end.record, wall_s=0.0) for end in ends])
    assert found[0] == found[1]
    assert all(record.error is None for record in found[0])


def test_what_workers_cannot_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RelaxSettings(model="emt", workers=2)
    with pytest.raises(InputError, match=r"cannot be handed to worker processes.*workers=1"):
        list(relax_jobs([], named(lambda systems: systems.positions), settings))
    monkeypatch.setattr(sys.modules["__main__"], "here", here, raising=False)
    with pytest.raises(InputError, match=r"__main__\.here is defined in the script itself"):
        list(relax_jobs([], named(here), settings))


def here(systems: Systems) -> Tensor:
    return systems.positions


here.__module__, here.__qualname__ = "__main__", "here"


def test_a_warm_start_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    identities = set()
    for k, warm_start in enumerate((None, Towards(0.5), Towards(0.6), shorter_bonds)):
        folder = open_run_folder(tmp_path / str(k), named(warm_start), SETTINGS)
        folder.close()
        identities.add(folder.identity)
    assert len(identities) == 4
    assert f"warm_start: {__name__}.shorter_bonds" in (tmp_path / "3" / "settings.yaml").read_text()
    assert "warm_start: null" in (tmp_path / "0" / "settings.yaml").read_text()


def test_names_say_where_a_proposal_comes_from() -> None:
    assert name_of(shorter_bonds) == f"{__name__}.shorter_bonds"
    assert name_of(Towards(0.5)) == f"{__name__}.Towards(share=0.5)"
    assert name_of(partial(shorter_bonds)) == "functools.partial"
