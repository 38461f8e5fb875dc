"""Structures relaxed together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
import torch
from ase.build import molecule
from helpers.structures import cloud, systems_of

from geocalc.core.choice import Choice
from geocalc.core.systems import Prediction, Systems, sum_per_system
from geocalc.errors import InputError
from geocalc.runs.batching import NEIGHBORS, Batches, Budget, budget_of
from geocalc.runs.engine import relax_alone
from geocalc.runs.forms import Ended, Live
from geocalc.runs.roles import NamedPotential
from geocalc.runs.settings import RelaxSettings

SETTINGS = RelaxSettings(model="bowl", dtype="float64", traj="every:4")


@dataclass
class Watched:
    """A bowl, steeper outside, that notes its batches and fails where there are too many atoms or a
    structure of an odd size.
    """

    most_atoms: int = 10**6
    refused: int | None = None  # a structure of so many atoms
    sizes: list[int] = field(default_factory=list)

    def __call__(self, systems: Systems) -> Prediction:
        if systems.n_atoms > self.most_atoms:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if self.refused in systems.counts.tolist():
            raise InputError("the structure contains Xx")
        self.sizes.append(systems.n_systems)
        x = systems.positions
        return Prediction(
            energy=sum_per_system((x**2 + x**4).sum(1), systems), forces=-2 * x - 4 * x**3
        )


def tasks() -> list[Live]:
    """Structures of 5 to 12 atoms that take different numbers of steps."""
    clouds = [cloud(5 + k, seed=k) for k in range(8)]
    for k, atoms in enumerate(clouds):
        atoms.positions *= 0.1 + 0.1 * (k % 4)
    return [
        Live(number=10 + k, sid=f"s{k}", systems=systems_of(atoms))
        for k, atoms in enumerate(clouds)
    ]


def together(
    potential: Watched, given: Iterable[Live], budget: Budget, optimizer: str = "bfgs"
) -> dict[int, Ended]:
    settings = SETTINGS.model_copy(update={"optimizer": Choice(name=optimizer)})
    engine = Batches(
        NamedPotential(potential=potential, name="bowl", hash="bowl"), settings, budget
    )
    found: dict[int, Ended] = {}
    for task in given:
        engine.add(task)
        while not engine.has_room:
            found.update(engine.collect())
    while engine.n_open:
        found.update(engine.collect())
    assert engine.collect() == []
    return found


def assert_as_alone(found: dict[int, Ended], given: list[Live], optimizer: str = "bfgs") -> None:
    settings = SETTINGS.model_copy(update={"optimizer": Choice(name=optimizer)})
    for task in given:
        alone, ended = relax_alone(task, Watched(), settings), found[task.number]
        assert (ended.error, ended.n_steps, ended.n_evaluations) == (
            None,
            alone.n_steps,
            alone.n_evaluations,
        )
        assert ended.relaxation.energy == alone.relaxation.energy
        assert torch.equal(ended.relaxation.systems.positions, alone.relaxation.systems.positions)
        assert torch.equal(ended.relaxation.forces, alone.relaxation.forces)
        assert [step for step, _ in ended.path] == [step for step, _ in alone.path]
        assert all(
            torch.equal(a.positions, b.positions)
            for (_, a), (_, b) in zip(ended.path, alone.path, strict=True)
        )


@pytest.mark.parametrize("optimizer", ["bfgs", "fire"])
def test_some_leave_and_others_enter_and_every_path_is_as_alone(optimizer: str) -> None:
    given, potential = tasks(), Watched()
    found = together(potential, given, Budget(edges=30 * NEIGHBORS), optimizer)
    assert_as_alone(found, given, optimizer)
    assert 2 <= max(potential.sizes) <= 5
    calls = [found[task.number].n_evaluations for task in given]
    assert len(set(calls)) > 3
    fixed_batches = max(calls[:4]) + max(calls[4:7]) + calls[7]  # 26, 30 and 12 atoms
    assert max(calls) <= len(potential.sizes) < fixed_batches
    assert all(one.wall_s > 0 for one in found.values())


def test_memory_that_runs_out_halves_the_budget_and_nothing_is_lost() -> None:
    given, potential, budget = tasks(), Watched(most_atoms=20), Budget(edges=1e6)
    found = together(potential, given, budget)
    assert_as_alone(found, given)
    assert 10 * NEIGHBORS <= budget.edges <= 20 * NEIGHBORS
    assert max(potential.sizes) >= 2


def test_a_structure_too_large_for_the_memory_has_an_error_of_its_own() -> None:
    given = tasks()
    found = together(Watched(most_atoms=11), given, Budget(edges=1e6))
    large = [task for task in given if task.systems.n_atoms > 11]
    assert large
    for task in large:
        assert found[task.number].error.startswith(
            "the structure of 12 atoms needs more memory than cpu has, even alone"
        )
        assert not found[task.number].final
    assert_as_alone(found, [task for task in given if task not in large])


def test_a_structure_that_fails_leaves_alone() -> None:
    given = tasks()
    found = together(Watched(refused=5), given, Budget(edges=1e6))
    bad = next(task for task in given if task.systems.n_atoms == 5)
    assert found[bad.number].error == "the structure contains Xx"
    assert found[bad.number].n_evaluations == 0
    assert_as_alone(found, [task for task in given if task is not bad])


def test_a_budget_is_remembered_for_a_model_on_a_device() -> None:
    budget_of("here", "cpu", 100).edges = 50
    assert budget_of("here", "cpu", 100).edges == 50
    assert budget_of("other", "cpu", 100).edges == 100
    assert budget_of("here", "cuda:0", 100).edges == 100


def test_edges_are_counted_with_the_cutoff_of_the_model() -> None:
    pair = systems_of(molecule("H2"))
    for cutoff, room in ((0.5, True), (1.5, False)):
        named = NamedPotential(potential=Watched(), name="bowl", hash="bowl", cutoff=cutoff)
        engine = Batches(named, SETTINGS, Budget(edges=2))
        engine.add(Live(number=0, sid="pair", systems=pair))
        assert engine.has_room is room
