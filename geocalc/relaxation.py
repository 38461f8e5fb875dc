"""Relaxation: the one loop that moves structures downhill, and what it says of each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from geocalc.errors import InputError
from geocalc.optim.base import Optimizer
from geocalc.systems import Potential, Systems, allowed, concatenate, join, max_per_system, moved, per_atom, per_system, select

MOVE_LIMIT = 10.0  # Angstrom from the start; half the vacuum of an OC20 slab: an atom there is bound to nothing any more
FALL_LIMIT = (
    10.0  # eV per atom below the start; no element binds stronger (W 8.9), so the surface has a hole or atoms overlapped
)
RISE_LIMIT = 1.0  # eV per atom above the start; several times what melting costs, so the structure is gone
RISE_FLOOR = 10.0  # eV; one long step onto a stiff bond costs a few eV in a molecule, and the next step takes it back
FORCE_LIMIT = 1e5  # eV/Angstrom; more than two carbon nuclei repel at 0.1 Angstrom, so no structure but a mistake has it


class Status(StrEnum):
    """How the relaxation of a structure ended; `sentence` says it in words."""

    CONVERGED = "CONVERGED"
    MAX_STEPS = "MAX_STEPS"
    SINGLE_POINT = "SINGLE_POINT"
    NON_FINITE = "NON_FINITE"
    EXPLODED = "EXPLODED"
    ERROR = "ERROR"

    @property
    def sentence(self) -> str:
        """The status for a human reader."""
        return SENTENCES[self]


SENTENCES = {
    Status.CONVERGED: "The largest force on a free atom fell below fmax.",
    Status.MAX_STEPS: "The steps ran out before the forces fell below fmax; the geometry of lowest energy is kept.",
    Status.SINGLE_POINT: "The structure was evaluated as it is; no steps were asked for.",
    Status.NON_FINITE: "The model gave an energy or force that is not a number; the geometry of lowest energy before is kept.",
    Status.EXPLODED: (
        f"An atom moved more than {MOVE_LIMIT:g} Angstrom, a force passed {FORCE_LIMIT:g} eV/Angstrom, or the energy rose or "
        "fell beyond what chemistry allows; the geometry of lowest energy before is kept, but cannot be trusted."
    ),
    Status.ERROR: "The structure could not be relaxed; its error says why.",
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Evaluated geometries of a batch; everything belongs to the same positions.

    Attributes:
        positions: (n_atoms, 3) Angstrom.
        forces: (n_atoms, 3) eV/Angstrom, raw.
        energy: (n_systems,) eV.
        energy_std: (n_systems,) eV, NaN where the potential gives none.
        fmax: (n_systems,) eV/Angstrom, largest norm over atoms of the force along what constraints allow.
    """

    positions: Tensor = per_atom()
    forces: Tensor = per_atom()
    energy: Tensor = per_system()
    energy_std: Tensor = per_system()
    fmax: Tensor = per_system()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far each structure of the batch has come.

    Attributes:
        index: (n_systems,) int64, place in the batch that was handed in.
        n_steps: (n_systems,) int64, steps taken.
        n_evaluations: (n_systems,) int64, calls of the potential that included the structure.
        start_positions: (n_atoms, 3) Angstrom.
        start_energy: (n_systems,) eV, of the first evaluation.
    """

    index: Tensor = per_system()
    n_steps: Tensor = per_system()
    n_evaluations: Tensor = per_system()
    start_positions: Tensor = per_atom()
    start_energy: Tensor = per_system()


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """The end of one relaxation.

    Attributes:
        systems: the structure, alone, at its final positions; fixed components are bit for bit those handed in.
        energy: eV at the final positions, NaN if the potential never gave a number.
        energy_std: eV, or NaN.
        forces: (n_atoms, 3) eV/Angstrom at the final positions, raw (also on fixed atoms).
        fmax: eV/Angstrom at the final positions.
        status: how it ended.
        n_steps: steps taken.
        n_evaluations: calls of the potential.
    """

    systems: Systems
    energy: float
    energy_std: float
    forces: Tensor
    fmax: float
    status: Status
    n_steps: int
    n_evaluations: int

    @property
    def converged(self) -> bool:
        """Whether the forces fell below fmax."""
        return self.status is Status.CONVERGED


Observer = Callable[[Systems, Snapshot, Progress], None]


def relax_systems(
    systems: Systems,
    potential: Potential,
    optimizer: Optimizer[Any],
    fmax: float = 0.05,
    max_steps: int = 300,
    observer: Observer | None = None,
) -> list[Relaxation]:
    """Move every structure of the batch downhill until its forces vanish; a path never depends on batch mates.

    A converged structure ends at its last positions. One that did not converge ends at the geometry of lowest energy that was
    evaluated, and its energy, forces and fmax are of that geometry.

    Args:
        systems: batch of structures; positions in Angstrom, `fixed` components never move and `projector` is obeyed.
        potential: gives energy and forces.
        optimizer: from `geocalc.optim.make_optimizer`.
        fmax: eV/Angstrom, positive; converged when no atom has a force of this norm or more along what constraints allow.
        max_steps: steps allowed for each structure; 0 evaluates once.
        observer: called after every evaluation with the live structures.
    Returns:
        One relaxation per structure, in the order of the batch.
    Raises:
        InputError: `fmax` or `max_steps` is not allowed, or the potential gives no forces.
    """
    if not fmax > 0 or max_steps < 0:
        raise InputError(f"fmax must be positive and max_steps not negative, got {fmax} and {max_steps}")
    ended: dict[int, Relaxation] = {}
    flight = depart(systems, optimizer, torch.arange(systems.n_systems, device=systems.cell.device))
    while flight.systems.n_systems:
        arrived, flight = advance(flight, potential, optimizer, fmax, max_steps, observer)
        ended |= arrived
    return [ended[k] for k in range(systems.n_systems)]


@dataclass(frozen=True, kw_only=True)
class Flight:
    """Structures on their way downhill, with all that is remembered of them between two evaluations.

    Attributes:
        systems: at the positions to be evaluated next.
        state: of the optimiser.
        progress: how far each has come. best: what each would end with.
    """

    systems: Systems
    state: Any
    progress: Progress
    best: Snapshot

    def select(self, chosen: Tensor) -> Flight:
        """The structures of a (n_systems,) bool mask."""
        return Flight(
            systems=select(self.systems, self.systems, chosen),
            state=select(self.state, self.systems, chosen),
            progress=select(self.progress, self.systems, chosen),
            best=select(self.best, self.systems, chosen),
        )

    def join(self, other: Flight) -> Flight:
        """These structures and then the others."""
        n = self.systems.n_systems
        return Flight(
            systems=concatenate([self.systems, other.systems]),
            state=join(self.state, other.state, n),
            progress=join(self.progress, other.progress, n),
            best=join(self.best, other.best, n),
        )


def depart(systems: Systems, optimizer: Optimizer[Any], index: Tensor) -> Flight:
    """A batch before its first evaluation; `index` (n_systems,) int64 tells its structures apart, see `Progress`."""
    return Flight(systems=systems, state=optimizer.init(systems), progress=_begin(systems, index), best=_nothing_yet(systems))


def advance(
    flight: Flight,
    potential: Potential,
    optimizer: Optimizer[Any],
    fmax: float,
    max_steps: int,
    observer: Observer | None = None,
) -> tuple[dict[int, Relaxation], Flight]:
    """Evaluate every structure once and let those that go on take a step.

    Args:
        flight: at least one structure. The others: see `relax_systems`.
    Returns:
        The relaxations that ended, by index, and the structures that go on.
    Raises:
        InputError: the potential gives no forces.
    """
    live, state, best, arrived = flight.systems, flight.state, flight.best, {}
    now = evaluate(live, potential)
    progress = _count(flight.progress, now)
    if observer is not None:
        observer(live, now, progress)
    status = judge(live, now, progress, fmax, max_steps)
    best = _better(best, now, live, status)
    if any(status):
        done = torch.tensor([s is not None for s in status], device=live.cell.device)
        arrived = _retire(replace(live, positions=best.positions), best, progress, status)
        now, best = select(now, live, ~done), select(best, live, ~done)
        progress, state = select(progress, live, ~done), select(state, live, ~done)
        live = select(live, live, ~done)
    if live.n_systems:
        displacement, state = optimizer.step(live, now.energy, allowed(now.forces, live), state)
        live = replace(live, positions=moved(live, displacement, progress.start_positions))
        progress = replace(progress, n_steps=progress.n_steps + 1)
    return arrived, Flight(systems=live, state=state, progress=progress, best=best)


def evaluate(systems: Systems, potential: Potential) -> Snapshot:
    """Energies and forces of a batch at its present positions, in float64.

    Raises:
        InputError: the potential gives no forces.
    """
    prediction = potential(systems)
    if prediction.forces is None:
        raise InputError("this potential gives energies without forces; a relaxation needs a model trained on forces")
    forces, energy, std = prediction.forces.double(), prediction.energy.double(), prediction.energy_std
    norms = torch.linalg.vector_norm(allowed(forces, systems), dim=1)
    fmax = max_per_system(norms.nan_to_num(nan=torch.inf, posinf=torch.inf), systems)
    return Snapshot(
        positions=systems.positions,
        forces=forces,
        energy=energy,
        energy_std=torch.full_like(energy, torch.nan) if std is None else std.double(),
        fmax=fmax.masked_fill(fmax.isinf(), torch.nan),
    )


def judge(systems: Systems, now: Snapshot, progress: Progress, fmax: float, max_steps: int) -> list[Status | None]:
    """The status of each structure, None for those that go on."""
    away = max_per_system(torch.linalg.vector_norm(now.positions - progress.start_positions, dim=1), systems)
    measured = torch.stack((now.energy, now.energy - progress.start_energy, now.fmax, away), dim=1).tolist()
    counted = torch.stack((systems.counts, progress.n_steps), dim=1).tolist()
    return [
        _verdict(energy, rise, largest, far, n_atoms, n_steps, fmax, max_steps)
        for (energy, rise, largest, far), (n_atoms, n_steps) in zip(measured, counted, strict=True)
    ]


def _verdict(
    energy: float, rise: float, largest: float, away: float, n_atoms: int, n_steps: int, fmax: float, max_steps: int
) -> Status | None:
    """The status of one structure whose largest force is `largest`; `rise` in energy and `away` are since the start."""
    if not (math.isfinite(energy) and math.isfinite(largest)):
        return Status.NON_FINITE
    out_of_range = rise > max(RISE_LIMIT * n_atoms, RISE_FLOOR) or rise < -FALL_LIMIT * n_atoms
    if away > MOVE_LIMIT or largest > FORCE_LIMIT or out_of_range:
        return Status.EXPLODED
    if max_steps == 0:
        return Status.SINGLE_POINT
    if largest < fmax:
        return Status.CONVERGED
    return Status.MAX_STEPS if n_steps >= max_steps else None


def _begin(systems: Systems, index: Tensor) -> Progress:
    """The progress before the first evaluation."""
    zero = torch.zeros(systems.n_systems, dtype=torch.int64, device=systems.cell.device)
    return Progress(
        index=index,
        n_steps=zero,
        n_evaluations=zero,
        start_positions=systems.positions,
        start_energy=torch.full_like(zero, torch.nan, dtype=torch.float64),
    )


def _nothing_yet(systems: Systems) -> Snapshot:
    """The start, with NaN for all that is not known: what remains if the potential never gives a number."""
    unknown = torch.full((systems.n_systems,), torch.nan, dtype=torch.float64, device=systems.cell.device)
    return Snapshot(
        positions=systems.positions,
        forces=torch.full_like(systems.positions, torch.nan),
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


def _better(best: Snapshot, now: Snapshot, systems: Systems, status: Sequence[Status | None]) -> Snapshot:
    """`best`, with `now` in place of it where that converged, or is the first, or is sound and lower in energy."""
    energies = torch.stack((now.energy, best.energy)).tolist()
    taken = [_replaces(*known) for known in zip(status, *energies, strict=True)]
    if all(taken):
        return now
    if not any(taken):
        return best
    chosen = torch.tensor(taken, device=now.energy.device)
    rows = chosen[:, None].expand(-1, 3).index_select(0, systems.system_idx)
    values = {}
    for f in fields(Snapshot):
        old, new = getattr(best, f.name), getattr(now, f.name)
        values[f.name] = torch.where(rows if old.ndim == 2 else chosen, new, old)
    return Snapshot(**values)


def _replaces(status: Status | None, energy: float, lowest: float) -> bool:
    """Whether the geometry just evaluated is kept instead of the one of lowest energy so far."""
    if status in (Status.CONVERGED, Status.NON_FINITE):
        return status is Status.CONVERGED
    return math.isnan(lowest) or (energy < lowest and status is not Status.EXPLODED)


def _retire(systems: Systems, best: Snapshot, progress: Progress, status: Sequence[Status | None]) -> dict[int, Relaxation]:
    """The relaxations that have a status, by their place in the batch that was handed in."""
    columns = (progress.index, best.energy, best.energy_std, best.fmax, progress.n_steps, progress.n_evaluations)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    ends = systems.counts.cumsum(0).tolist()
    ended = {}
    for k, (verdict, (index, energy, energy_std, fmax, n_steps, n_evaluations)) in enumerate(zip(status, rows, strict=True)):
        if verdict is None:
            continue
        atoms = slice(ends[k - 1] if k else 0, ends[k])
        ended[index] = Relaxation(
            systems=_alone(systems, k, atoms),
            energy=energy,
            energy_std=energy_std,
            forces=best.forces[atoms].clone(),
            fmax=fmax,
            status=verdict,
            n_steps=n_steps,
            n_evaluations=n_evaluations,
        )
    return ended


def _alone(systems: Systems, k: int, atoms: slice) -> Systems:
    """Structure `k`, whose atoms are these, with memory of its own; a projector only where it holds something."""
    projector = None if systems.projector is None else systems.projector[atoms].clone()
    if projector is not None and bool((projector == torch.eye(3, dtype=projector.dtype, device=projector.device)).all()):
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
