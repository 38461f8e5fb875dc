"""Engines turn live structures into ended ones; the simplest works on one at a time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch

from geocalc.core.process import one_thread
from geocalc.core.systems import Potential, Systems, apply_constraints, copy_aligned
from geocalc.errors import InputError, format_error, format_unexpected
from geocalc.optim.catalog import make_optimizer
from geocalc.relaxation.degrees_of_freedom import DegreesOfFreedom
from geocalc.relaxation.loop import ATOMS_ONLY, relax_systems
from geocalc.relaxation.state import Progress, Relaxation, Snapshot
from geocalc.relaxation.status import Status
from geocalc.relaxation.warm_start import Proposal
from geocalc.runs.forms import Ended, Live
from geocalc.runs.roles import MODEL_ERRORS, SecondModel
from geocalc.runs.settings import RelaxSettings

Report = Callable[[str, int, float], None]  # sid, steps so far, fmax in eV/Angstrom
logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Works on live structures, in an order and with a parallelism of its own."""

    @property
    def n_open(self) -> int:
        """Structures that were added and not collected yet."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether another structure can be used now; where not, collect first."""
        ...

    def add(self, live: Live) -> None:
        """Take a structure."""
        ...

    def collect(self) -> list[tuple[int, Ended]]:
        """Work, or wait, until some structures have ended; these, by number. Nothing where no
        structure is open.
        """
        ...

    def close(self) -> None:
        """Drop unfinished structures and free all resources."""
        ...


class OneByOne:
    """Works on each structure alone in this process, in the order in which they come.

    Args:
        work: ends a structure, such as `relax_alone` with everything but the structure.
    """

    def __init__(self, work: Callable[[Live], Ended]) -> None:
        self._work = work
        self._waiting: list[Live] = []

    @property
    def n_open(self) -> int:
        """See `Engine`."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """See `Engine`."""
        return not self._waiting

    def add(self, live: Live) -> None:
        """See `Engine`."""
        self._waiting.append(live)

    def collect(self) -> list[tuple[int, Ended]]:
        """See `Engine`."""
        if not self._waiting:
            return []
        live = self._waiting.pop(0)
        return [(live.number, self._work(live))]

    def close(self) -> None:
        """See `Engine`."""
        self._waiting.clear()


def relax_alone(
    live: Live,
    potential: Potential,
    settings: RelaxSettings,
    device: str = "cpu",
    report: Report | None = None,
    warm_start: Proposal | None = None,
    freedom: DegreesOfFreedom[Any] = ATOMS_ONLY,
) -> Ended:
    """Relax one structure alone, on one thread: the result depends on the arguments only.

    An error of the model ends the structure; one that is not expected is logged with its traceback.

    Args:
        live: the structure.
        potential: gives energies and forces.
        settings: of the relaxation.
        device: where the structure is put.
        report: called after every evaluation.
        warm_start: proposes where to start.
        freedom: the coordinates that move.
    Raises:
        InputError, RecipeError: the optimizer is unknown, or a setting of it.
    """
    path: list[tuple[int, Snapshot]] = []
    step, started = -1, time.perf_counter()
    optimizer = make_optimizer(settings.optimizer)

    def observe(systems: Systems, now: Snapshot, progress: Progress) -> None:
        nonlocal step
        step = int(progress.n_steps[0])
        if settings.keeps_step(step):
            path.append((step, now))
        if report is not None:
            report(live.sid, step, float(now.fmax[0]))

    try:
        with one_thread():
            systems = copy_aligned(live.systems).to(device)
            end = relax_systems(
                systems,
                potential,
                optimizer,
                settings.fmax,
                settings.steps,
                observe,
                warm_start,
                freedom,
            )[0]
    except MODEL_ERRORS as fault:
        error = format_error(fault)
    except Exception as fault:
        logger.exception("unexpected error in structure %s", live.sid)
        error = format_unexpected(fault)
    else:
        return Ended(
            relaxation=end,
            path=tuple(path),
            n_steps=end.n_steps,
            n_evaluations=end.n_evaluations,
            wall_s=time.perf_counter() - started,
        )
    return Ended(
        error=error,
        n_steps=max(step, 0),
        n_evaluations=step + 1,
        wall_s=time.perf_counter() - started,
    )


def predict_alone(live: Live, potential: Potential, device: str = "cpu") -> Ended:
    """Predict the relaxed energy and geometry of one structure, on one thread.

    Args:
        live: the structure.
        potential: a direct model: gives energies of relaxed structures.
        device: where the structure is put.
    """
    started = time.perf_counter()
    end, error = None, None
    try:
        with one_thread():
            end = predict_relaxed(copy_aligned(live.systems).to(device), potential)
    except MODEL_ERRORS as fault:
        error = format_error(fault)
    except Exception as fault:
        logger.exception("unexpected error in structure %s", live.sid)
        error = format_unexpected(fault)
    return Ended(relaxation=end, error=error, n_evaluations=1, wall_s=time.perf_counter() - started)


def predict_relaxed(systems: Systems, potential: Potential) -> Relaxation:
    """Predict the relaxed energy and geometry of one structure with a direct model.

    Args:
        systems: one structure.
        potential: gives energies of relaxed structures and, where it has them, displacements.
    Returns:
        Energy in eV, predicted positions (fixed atoms where they are), and no forces.
    Raises:
        InputError: there is not exactly one structure.
    """
    if systems.n_systems != 1:
        raise InputError(f"one structure at a time is predicted, got {systems.n_systems}")
    prediction = potential(systems)
    energy, std = float(prediction.energy[0]), prediction.energy_std
    move = (
        torch.zeros_like(systems.positions)
        if prediction.displacement is None
        else prediction.displacement.double()
    )
    move = apply_constraints(move, systems)
    known = math.isfinite(energy) and bool(move.isfinite().all())
    positions = torch.where(systems.fixed, systems.positions, systems.positions + move)
    return Relaxation(
        systems=replace(systems, positions=positions if known else systems.positions),
        energy=energy if known else math.nan,
        energy_std=math.nan if std is None else float(std[0]),
        forces=torch.full_like(systems.positions, torch.nan),
        fmax=math.nan,
        status=Status.PREDICTED if known else Status.NON_FINITE,
        n_steps=0,
        n_evaluations=1,
        novelty=math.nan if prediction.novelty is None else float(prediction.novelty[0]),
        novel_atom=0 if prediction.novel_atom is None else int(prediction.novel_atom[0]),
        unseen=0 if prediction.unseen is None else int(prediction.unseen[0]),
    )


def with_opinion(live: Live, work: Callable[[Live], Ended], second: SecondModel) -> Ended:
    """Work on a structure and add the opinion of a second model, also where the work fails."""
    if live.unrelaxed is None:
        return work(live)
    started = time.perf_counter()
    opinion = second.opinion(live.unrelaxed)
    spent = time.perf_counter() - started
    ended = work(live)
    return replace(ended, second_opinion=opinion, wall_s=ended.wall_s + spent)
