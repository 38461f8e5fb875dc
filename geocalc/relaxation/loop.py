"""The relaxation loop: evaluates a batch, stops finished structures and moves the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from geocalc.core.systems import (
    Coordinates,
    Potential,
    Systems,
    changed,
    concatenate,
    displaced,
    join,
    max_per_system,
    select,
)
from geocalc.errors import InputError
from geocalc.optim.base import Optimizer
from geocalc.relaxation.degrees_of_freedom import AtomsOnly, DegreesOfFreedom
from geocalc.relaxation.noise_floor import Trails, follow, no_trails, noise_floors
from geocalc.relaxation.state import Progress, Relaxation, Snapshot
from geocalc.relaxation.status import Status, verdict
from geocalc.relaxation.warm_start import Proposal, no_worse, proposed

Observer = Callable[[Systems, Snapshot, Progress], None]
ATOMS_ONLY = AtomsOnly()


def relax_systems(
    systems: Systems,
    potential: Potential,
    optimizer: Optimizer[Any],
    fmax: float = 0.05,
    max_steps: int = 300,
    observer: Observer | None = None,
    warm_start: Proposal | None = None,
    freedom: DegreesOfFreedom[Any] = ATOMS_ONLY,
) -> list[Relaxation]:
    """Relax every structure of a batch; a path never depends on the other structures.

    A converged structure ends at its last positions. A structure that did not converge ends at the
    evaluated geometry of lowest energy; its energy, forces and fmax are those of that geometry.
    The same holds where the forces no longer fall because they are as small as their errors
    (NOISE_FLOOR, see `geocalc.relaxation.noise_floor`): there, the geometry of smallest forces is
    a matter of chance.

    Args:
        systems: batch of structures; positions in Angstrom, `fixed` components never move and
            `projector` is obeyed.
        potential: gives energy and forces.
        optimizer: from `geocalc.optim.make_optimizer`.
        fmax: eV/Angstrom, positive; converged when no atom has a force of this norm or more along
            what constraints allow.
        max_steps: steps allowed for each structure; 0 evaluates once.
        observer: called after every evaluation with the structures that still move.
        warm_start: proposes a first step, taken back where energy or fmax is worse after it; it
            counts as a step either way.
        freedom: the coordinates that move: atoms alone, or atoms and cells (a
            `geocalc.relaxation.cell_filters.CellFilter`).
    Returns:
        One relaxation per structure, in the order of the batch.
    Raises:
        InputError: `fmax` or `max_steps` is not allowed, the potential gives no forces, the warm
            start has the wrong shape, or a cell cannot relax.
    """
    if not fmax > 0 or max_steps < 0:
        raise InputError(
            f"fmax must be positive and max_steps not negative, got {fmax} and {max_steps}"
        )
    ended: dict[int, Relaxation] = {}
    index = torch.arange(systems.n_systems, device=systems.cell.device)
    active = start(systems, optimizer, index, freedom)
    while active.n_systems:
        finished, active = step(
            active, potential, optimizer, fmax, max_steps, observer, warm_start, freedom
        )
        ended |= finished
    return [ended[k] for k in range(systems.n_systems)]


@dataclass(frozen=True, kw_only=True)
class ActiveBatch:
    """Structures that still move, with all that is kept of them between two evaluations.

    Attributes:
        coordinates: to be evaluated next.
        state: of the optimizer.
        progress: of each structure.
        best: the geometry that each structure would end with.
        trails: recent evaluations, for the noise floor.
        on_trial: (n_systems,) bool, whether the next evaluation is of a proposal; `best` is then
            the start.
    """

    coordinates: Coordinates
    state: Any
    progress: Progress
    best: Snapshot
    trails: Trails
    on_trial: Tensor

    @property
    def n_systems(self) -> int:
        """Number of structures in the batch."""
        return self.coordinates.n_systems

    def select(self, chosen: Tensor) -> ActiveBatch:
        """The structures of a (n_systems,) bool mask."""
        values = {name: select(getattr(self, name), self.coordinates, chosen) for name in _PARTS}
        return ActiveBatch(
            coordinates=select(self.coordinates, self.coordinates, chosen),
            on_trial=self.on_trial[chosen],
            **values,
        )

    def join(self, other: ActiveBatch) -> ActiveBatch:
        """These structures and then the others."""
        values = {name: join(getattr(self, name), getattr(other, name)) for name in _PARTS}
        return ActiveBatch(
            coordinates=concatenate([self.coordinates, other.coordinates]),
            on_trial=torch.cat([self.on_trial, other.on_trial]),
            **values,
        )


# fields of an ActiveBatch that are dataclasses with marked fields
_PARTS = ("state", "progress", "best", "trails")


def start(
    systems: Systems,
    optimizer: Optimizer[Any],
    index: Tensor,
    freedom: DegreesOfFreedom[Any] = ATOMS_ONLY,
) -> ActiveBatch:
    """Prepare a batch for its first evaluation.

    Args:
        systems: batch of structures.
        optimizer: that will move them.
        index: (n_systems,) int64, numbers of the structures, see `Progress`.
        freedom: see `relax_systems`.
    """
    coordinates = freedom.coordinates(systems)
    zero = torch.zeros_like(index)
    return ActiveBatch(
        coordinates=coordinates,
        state=optimizer.init(coordinates),
        progress=Progress(
            index=index,
            n_steps=zero,
            n_evaluations=zero,
            start_positions=coordinates.positions,
            start_energy=torch.full_like(zero, torch.nan, dtype=torch.float64),
            tether=1 / freedom.limits(coordinates),
            n_atoms=systems.counts.double(),
            novelty=torch.full_like(zero, torch.nan, dtype=torch.float64),
        ),
        best=freedom.unevaluated(coordinates),
        trails=no_trails(coordinates),
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
    freedom: DegreesOfFreedom[Any] = ATOMS_ONLY,
) -> tuple[dict[int, Relaxation], ActiveBatch]:
    """Evaluate every structure once and move the unfinished ones by one step.

    Args:
        active: at least one structure.
        potential, optimizer, fmax, max_steps, observer, warm_start: see `relax_systems`.
        freedom: the one that `start` had.
    Returns:
        The relaxations that ended, by index, and the structures that go on.
    Raises:
        InputError: see `relax_systems`.
    """
    live, finished = active.coordinates, {}
    now = freedom.evaluate(live, potential)
    progress = _count(active.progress, now)
    if observer is not None:
        observer(*freedom.structures(live, now), progress)
    if warm_start is not None:
        now = _verified(active, now)
        live = changed(live, positions=now.positions)
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
    active = changed(active, coordinates=live, progress=progress, best=best, trails=trails)
    if any(status):
        finished = _retire(*freedom.structures(live, best), progress, status, noise)
        going = torch.tensor([s is None for s in status], device=now.energy.device)
        now, active = select(now, live, going), active.select(going)
    if active.n_systems:
        active = (
            _optimizer_step(active, now, optimizer)
            if warm_start is None
            else _first_steps(active, now, optimizer, warm_start, freedom)
        )
    return finished, active


def _optimizer_step(active: ActiveBatch, now: Snapshot, optimizer: Optimizer[Any]) -> ActiveBatch:
    """Move by one step of the optimizer."""
    displacement, state = optimizer.step(
        active.coordinates, now.energy, now.constrained_forces, active.state
    )
    return _moved(changed(active, state=state), displacement)


def _moved(active: ActiveBatch, displacement: Tensor) -> ActiveBatch:
    """The structures after a step, as far as constraints allow it."""
    progress = changed(active.progress, n_steps=active.progress.n_steps + 1)
    positions = displaced(active.coordinates, displacement, progress.start_positions)
    coordinates = changed(active.coordinates, positions=positions)
    return changed(active, coordinates=coordinates, progress=progress)


def _verified(active: ActiveBatch, now: Snapshot) -> Snapshot:
    """`now`, with the start in place of proposals that made energy or fmax worse."""
    refused = active.on_trial & ~no_worse(
        now.energy, now.fmax, active.best.energy, active.best.fmax
    )
    return _mixed(active.best, now, refused, active.coordinates)


def _first_steps(
    active: ActiveBatch,
    now: Snapshot,
    optimizer: Optimizer[Any],
    warm_start: Proposal,
    freedom: DegreesOfFreedom[Any],
) -> ActiveBatch:
    """Move by proposals after the first evaluation, and by steps of the optimizer elsewhere; the
    optimizer begins where a trial has ended.
    """
    tried, first = active.on_trial, active.progress.n_evaluations == 1
    if not bool((tried | first).any()):
        return _optimizer_step(active, now, optimizer)
    live = active.coordinates
    displacement, on_trial = proposed(warm_start, freedom.structures(live, now)[0], first)
    displacement = freedom.rows(live, displacement)
    active, going, parts = changed(active, on_trial=on_trial), ~(tried | on_trial), []
    if bool(going.any()):
        parts.append(_optimizer_step(active.select(going), select(now, live, going), optimizer))
    if bool(tried.any()):
        fresh = active.select(tried)
        fresh = changed(fresh, state=optimizer.init(fresh.coordinates))
        parts.append(_optimizer_step(fresh, select(now, live, tried), optimizer))
    if bool(on_trial.any()):
        parts.append(_moved(active.select(on_trial), displacement[on_trial[live.system_idx]]))
    return reduce(ActiveBatch.join, parts)


def judge(
    coordinates: Coordinates, now: Snapshot, progress: Progress, fmax: float, max_steps: int
) -> list[Status | None]:
    """The status of each structure, None for those that go on."""
    away = (
        torch.linalg.vector_norm(now.positions - progress.start_positions, dim=1) * progress.tether
    )
    measured = (
        now.energy,
        progress.start_energy,
        now.fmax,
        max_per_system(away, coordinates),
        progress.n_atoms,
        progress.n_steps,
    )
    return [
        verdict(energy, start_energy, largest, far, n_atoms, n_steps, fmax, max_steps)
        for energy, start_energy, largest, far, n_atoms, n_steps in torch.stack(
            measured, dim=1
        ).tolist()
    ]


def _count(progress: Progress, now: Snapshot) -> Progress:
    """Count one more evaluation."""
    return changed(
        progress,
        n_evaluations=progress.n_evaluations + 1,
        start_energy=torch.where(progress.n_evaluations == 0, now.energy, progress.start_energy),
        novelty=torch.fmax(progress.novelty, now.novelty),
    )


def _better(
    best: Snapshot, now: Snapshot, coordinates: Coordinates, status: Sequence[Status | None]
) -> Snapshot:
    """`best`, replaced by `now` where that converged, is the first evaluation, or is lower in
    energy and plausible.
    """
    energies = torch.stack((now.energy, best.energy)).tolist()
    taken = [_replaces(*known) for known in zip(status, *energies, strict=True)]
    if all(taken):
        return now
    if not any(taken):
        return best
    return _mixed(now, best, torch.tensor(taken, device=now.energy.device), coordinates)


def _mixed(one: Snapshot, other: Snapshot, chosen: Tensor, coordinates: Coordinates) -> Snapshot:
    """Rows of `one` for the chosen structures, (n_systems,) bool, and of `other` elsewhere."""
    rows = chosen[:, None].expand(-1, 3).index_select(0, coordinates.system_idx)
    values = {}
    for f in fields(Snapshot):
        taken, left = getattr(one, f.name), getattr(other, f.name)
        if taken is not None:
            mask = (chosen, rows, chosen[:, None, None])[taken.ndim - 1]
            values[f.name] = torch.where(mask, taken, left)
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
        best.novelty,
        best.novel_atom,
        best.unseen,
        progress.novelty,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    ends = systems.counts.cumsum(0).tolist()
    ended = {}
    for k, (end, row) in enumerate(zip(status, rows, strict=True)):
        if end is None:
            continue
        index, energy, energy_std, fmax, n_steps, n_evaluations, *domain = row
        novelty, novel_atom, unseen, path_novelty = domain
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
            stress=None if best.stress is None else best.stress[k].clone(),
            novelty=novelty,
            novel_atom=novel_atom,
            unseen=unseen,
            path_novelty=path_novelty,
        )
    return ended


def _alone(systems: Systems, k: int, atoms: slice) -> Systems:
    """Structure `k` alone, with memory of its own; without a projector that holds no atom.

    Args:
        systems: batch.
        k: its place in the batch.
        atoms: the atoms of this structure.
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
