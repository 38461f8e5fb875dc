"""Relaxation: the one loop that moves structures downhill, and what it says of each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from geocalc.core.systems import (
    CELL,
    Potential,
    Systems,
    apply_constraints,
    concatenate,
    displaced,
    join,
    max_per_system,
    n_atoms_of,
    select,
)
from geocalc.errors import InputError
from geocalc.optim.base import Optimizer
from geocalc.relaxation.noise_floor import Trails, follow, no_trails, noise_floors
from geocalc.relaxation.state import Progress, Relaxation, Snapshot
from geocalc.relaxation.status import MOVE_LIMIT, STRAIN_LIMIT, Status, verdict
from geocalc.relaxation.warm_start import Proposal, no_worse, proposed

Observer = Callable[[Systems, Snapshot, Progress], None]


def relax_systems(
    systems: Systems,
    potential: Potential,
    optimizer: Optimizer[Any],
    fmax: float = 0.05,
    max_steps: int = 300,
    observer: Observer | None = None,
    warm_start: Proposal | None = None,
) -> list[Relaxation]:
    """Move every structure of the batch downhill until its forces vanish; a path never depends on
    batch mates.

    A converged structure ends at its last positions. One that did not converge ends at the geometry
    of lowest energy that was evaluated, and its energy, forces and fmax are of that geometry. So
    does one whose forces do not fall any more because they are as small as their errors
    (NOISE_FLOOR, see `geocalc.relaxation.noise_floor`): which of its geometries has the smallest
    forces is chance.

    Args:
        systems: batch of structures; positions in Angstrom, `fixed` components never move and
            `projector` is obeyed.
        potential: gives energy and forces.
        optimizer: from `geocalc.optim.make_optimizer`.
        fmax: eV/Angstrom, positive; converged when no atom has a force of this norm or more along
            what constraints allow.
        max_steps: steps allowed for each structure; 0 evaluates once.
        observer: called after every evaluation with the live structures.
        warm_start: proposes a first step, taken back where energy or fmax is worse after it; it
            counts as a step either way.
    Returns:
        One relaxation per structure, in the order of the batch.
    Raises:
        InputError: `fmax` or `max_steps` is not allowed, or the potential gives no forces, or the
            warm start another shape.
    """
    if not fmax > 0 or max_steps < 0:
        raise InputError(
            f"fmax must be positive and max_steps not negative, got {fmax} and {max_steps}"
        )
    ended: dict[int, Relaxation] = {}
    active = start(systems, optimizer, torch.arange(systems.n_systems, device=systems.cell.device))
    while active.systems.n_systems:
        finished, active = step(active, potential, optimizer, fmax, max_steps, observer, warm_start)
        ended |= finished
    return [ended[k] for k in range(systems.n_systems)]


@dataclass(frozen=True, kw_only=True)
class ActiveBatch:
    """Structures on their way downhill, with all that is remembered of them between two
    evaluations.

    Attributes:
        systems: at the positions to be evaluated next.
        state: of the optimizer.
        progress: how far each has come.
        best: what each would end with.
        trails: what tells the noise floor.
        on_trial: (n_systems,) bool, whether the next evaluation is of a proposal; `best` is then
            the start.
    """

    systems: Systems
    state: Any
    progress: Progress
    best: Snapshot
    trails: Trails
    on_trial: Tensor

    def select(self, chosen: Tensor) -> ActiveBatch:
        """The structures of a (n_systems,) bool mask."""
        values = {name: select(getattr(self, name), self.systems, chosen) for name in _PARTS}
        return ActiveBatch(
            systems=select(self.systems, self.systems, chosen),
            on_trial=self.on_trial[chosen],
            **values,
        )

    def join(self, other: ActiveBatch) -> ActiveBatch:
        """These structures and then the others."""
        values = {
            name: join(getattr(self, name), getattr(other, name), self.systems.n_systems)
            for name in _PARTS
        }
        systems, on_trial = (
            concatenate([self.systems, other.systems]),
            torch.cat([self.on_trial, other.on_trial]),
        )
        return ActiveBatch(systems=systems, on_trial=on_trial, **values)


# of a active, with fields marked per atom or per structure
_PARTS = ("state", "progress", "best", "trails")


def start(systems: Systems, optimizer: Optimizer[Any], index: Tensor) -> ActiveBatch:
    """A batch before its first evaluation; `index` (n_systems,) int64 tells its structures apart,
    see `Progress`.
    """
    return ActiveBatch(
        systems=systems,
        state=optimizer.init(systems),
        progress=_begin(systems, index),
        best=_nothing_yet(systems),
        trails=no_trails(systems),
        on_trial=torch.zeros_like(index, dtype=torch.bool),
    )


def step(
    active: ActiveBatch,
    potential: Potential,
    optimizer: Optimizer[Any],
    fmax: float,
    max_steps: int,
    observer: Observer | None = None,
    warm_start: Proposal | None = None,
) -> tuple[dict[int, Relaxation], ActiveBatch]:
    """Evaluate every structure once and let those that go on take a step.

    Args:
        active: at least one structure. The others: see `relax_systems`.
    Returns:
        The relaxations that ended, by index, and the structures that go on.
    Raises:
        InputError: the potential gives no forces, or the warm start another shape.
    """
    live, finished = active.systems, {}
    now = evaluate(live, potential)
    progress = _count(active.progress, now)
    if observer is not None:
        observer(live, now, progress)
    if warm_start is not None:
        now = _verified(active, now)
        live = replace(live, positions=now.positions)
    trails = follow(
        active.trails, live, now.energy, now.constrained_forces, now.fmax, progress.n_evaluations
    )
    status = judge(live, now, progress, fmax, max_steps)
    noise = noise_floors(trails)
    status = [
        Status.NOISE_FLOOR if s is None and not math.isnan(n) else s
        for s, n in zip(status, noise, strict=True)
    ]
    best = _better(active.best, now, live, status)
    active = replace(active, systems=live, progress=progress, best=best, trails=trails)
    if any(status):
        finished = _retire(replace(live, positions=best.positions), best, progress, status, noise)
        going = torch.tensor([s is None for s in status], device=live.cell.device)
        now, active = select(now, live, going), active.select(going)
    if active.systems.n_systems:
        active = (
            _optimizer_step(active, now, optimizer)
            if warm_start is None
            else _first_steps(active, now, optimizer, warm_start)
        )
    return finished, active


def _optimizer_step(active: ActiveBatch, now: Snapshot, optimizer: Optimizer[Any]) -> ActiveBatch:
    """One step of the optimizer."""
    displacement, state = optimizer.step(
        active.systems, now.energy, now.constrained_forces, active.state
    )
    return _moved(replace(active, state=state), displacement)


def _moved(active: ActiveBatch, displacement: Tensor) -> ActiveBatch:
    """The structures after a step, as far as constraints allow it."""
    progress = replace(active.progress, n_steps=active.progress.n_steps + 1)
    positions = displaced(active.systems, displacement, progress.start_positions)
    return replace(active, systems=replace(active.systems, positions=positions), progress=progress)


def _verified(active: ActiveBatch, now: Snapshot) -> Snapshot:
    """What was evaluated, and the start in place of proposals that made energy or fmax worse."""
    refused = active.on_trial & ~no_worse(
        now.energy, now.fmax, active.best.energy, active.best.fmax
    )
    return _mixed(active.best, now, refused, active.systems)


def _first_steps(
    active: ActiveBatch, now: Snapshot, optimizer: Optimizer[Any], warm_start: Proposal
) -> ActiveBatch:
    """Proposals after the first evaluation, and steps of the optimizer elsewhere; it begins where a
    trial has ended.
    """
    tried, first = active.on_trial, active.progress.n_evaluations == 1
    if not bool((tried | first).any()):
        return _optimizer_step(active, now, optimizer)
    displacement, on_trial = proposed(warm_start, active.systems, first)
    active, going, parts = replace(active, on_trial=on_trial), ~(tried | on_trial), []
    if bool(going.any()):
        parts.append(
            _optimizer_step(active.select(going), select(now, active.systems, going), optimizer)
        )
    if bool(tried.any()):
        fresh = active.select(tried)
        fresh = replace(fresh, state=optimizer.init(fresh.systems))
        parts.append(_optimizer_step(fresh, select(now, active.systems, tried), optimizer))
    if bool(on_trial.any()):
        parts.append(
            _moved(active.select(on_trial), displacement[on_trial[active.systems.system_idx]])
        )
    return reduce(ActiveBatch.join, parts)


def evaluate(systems: Systems, potential: Potential) -> Snapshot:
    """Energies and forces of a batch at its present positions, in float64.

    Raises:
        InputError: the potential gives no forces.
    """
    prediction = potential(systems)
    if prediction.forces is None:
        raise InputError(
            "this potential gives energies without forces; a relaxation needs a model trained on"
            " forces"
        )
    forces, energy, std = (
        prediction.forces.double(),
        prediction.energy.double(),
        prediction.energy_std,
    )
    constrained_forces = apply_constraints(forces, systems)
    norms = torch.linalg.vector_norm(constrained_forces, dim=1)
    fmax = max_per_system(norms.nan_to_num(nan=torch.inf, posinf=torch.inf), systems)
    return Snapshot(
        positions=systems.positions,
        forces=forces,
        constrained_forces=constrained_forces,
        energy=energy,
        energy_std=torch.full_like(energy, torch.nan) if std is None else std.double(),
        fmax=fmax.masked_fill(fmax.isinf(), torch.nan),
    )


def judge(
    systems: Systems, now: Snapshot, progress: Progress, fmax: float, max_steps: int
) -> list[Status | None]:
    """The status of each structure, None for those that go on."""
    away = (
        torch.linalg.vector_norm(now.positions - progress.start_positions, dim=1) * progress.tether
    )
    measured = (
        now.energy,
        progress.start_energy,
        now.fmax,
        max_per_system(away, systems),
        progress.n_atoms,
        progress.n_steps,
    )
    return [
        verdict(energy, start_energy, largest, far, n_atoms, n_steps, fmax, max_steps)
        for energy, start_energy, largest, far, n_atoms, n_steps in torch.stack(
            measured, dim=1
        ).tolist()
    ]


def _begin(systems: Systems, index: Tensor) -> Progress:
    """The progress before the first evaluation."""
    zero = torch.zeros(systems.n_systems, dtype=torch.int64, device=systems.cell.device)
    n_atoms = n_atoms_of(systems).double()
    strain_limit = (STRAIN_LIMIT * n_atoms)[systems.system_idx]
    limit = torch.where(systems.numbers == CELL, strain_limit, MOVE_LIMIT)
    return Progress(
        index=index,
        n_steps=zero,
        n_evaluations=zero,
        start_positions=systems.positions,
        start_energy=torch.full_like(zero, torch.nan, dtype=torch.float64),
        tether=1 / limit,
        n_atoms=n_atoms,
    )


def _nothing_yet(systems: Systems) -> Snapshot:
    """The start, with NaN for all that is not known: what remains if the potential never gives a
    number.
    """
    unknown = torch.full(
        (systems.n_systems,), torch.nan, dtype=torch.float64, device=systems.cell.device
    )
    return Snapshot(
        positions=systems.positions,
        forces=torch.full_like(systems.positions, torch.nan),
        constrained_forces=torch.full_like(systems.positions, torch.nan),
        energy=unknown,
        energy_std=unknown,
        fmax=unknown,
    )


def _count(progress: Progress, now: Snapshot) -> Progress:
    """One evaluation more."""
    return replace(
        progress,
        n_evaluations=progress.n_evaluations + 1,
        start_energy=torch.where(progress.n_evaluations == 0, now.energy, progress.start_energy),
    )


def _better(
    best: Snapshot, now: Snapshot, systems: Systems, status: Sequence[Status | None]
) -> Snapshot:
    """`best`, with `now` in place of it where that converged, or is the first, or is sound and
    lower in energy.
    """
    energies = torch.stack((now.energy, best.energy)).tolist()
    taken = [_replaces(*known) for known in zip(status, *energies, strict=True)]
    if all(taken):
        return now
    if not any(taken):
        return best
    return _mixed(now, best, torch.tensor(taken, device=now.energy.device), systems)


def _mixed(one: Snapshot, other: Snapshot, chosen: Tensor, systems: Systems) -> Snapshot:
    """The rows of `one` for the chosen structures, (n_systems,) bool, and of the other elsewhere."""
    rows = chosen[:, None].expand(-1, 3).index_select(0, systems.system_idx)
    values = {}
    for f in fields(Snapshot):
        taken, left = getattr(one, f.name), getattr(other, f.name)
        values[f.name] = torch.where(rows if taken.ndim == 2 else chosen, taken, left)
    return Snapshot(**values)


def _replaces(status: Status | None, energy: float, lowest: float) -> bool:
    """Whether the geometry just evaluated is kept instead of the one of lowest energy so far."""
    if status in (Status.CONVERGED, Status.NON_FINITE):
        return status is Status.CONVERGED
    return math.isnan(lowest) or (energy < lowest and status is not Status.EXPLODED)


def _retire(
    systems: Systems,
    best: Snapshot,
    progress: Progress,
    status: Sequence[Status | None],
    noise: Sequence[float],
) -> dict[int, Relaxation]:
    """The relaxations that have a status, by their place in the batch that was handed in."""
    columns = (
        progress.index,
        best.energy,
        best.energy_std,
        best.fmax,
        progress.n_steps,
        progress.n_evaluations,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    ends = systems.counts.cumsum(0).tolist()
    ended = {}
    for k, (end, (index, energy, energy_std, fmax, n_steps, n_evaluations)) in enumerate(
        zip(status, rows, strict=True)
    ):
        if end is None:
            continue
        atoms = slice(ends[k - 1] if k else 0, ends[k])
        ended[index] = Relaxation(
            systems=_alone(systems, k, atoms),
            energy=energy,
            energy_std=energy_std,
            forces=best.forces[atoms].clone(),
            fmax=fmax,
            status=end,
            n_steps=n_steps,
            n_evaluations=n_evaluations,
            noise=noise[k] if end is Status.NOISE_FLOOR else math.nan,
        )
    return ended


def _alone(systems: Systems, k: int, atoms: slice) -> Systems:
    """Structure `k`, whose atoms are these, with memory of its own; a projector only where it holds
    something.
    """
    projector = None if systems.projector is None else systems.projector[atoms].clone()
    if projector is not None and bool(
        (projector == torch.eye(3, dtype=projector.dtype, device=projector.device)).all()
    ):
        projector = None
    return Systems(
        positions=systems.positions[atoms].clone(),
        numbers=systems.numbers[atoms].clone(),
        tags=systems.tags[atoms].clone(),
        fixed=systems.fixed[atoms].clone(),
        system_idx=torch.zeros_like(systems.system_idx[atoms]),
        cell=systems.cell[k : k + 1].clone(),
        pbc=systems.pbc[k : k + 1].clone(),
        projector=projector,
    )
