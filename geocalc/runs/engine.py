"""Structures to be relaxed and what became of them: the common language of the engines, and the
plainest engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from geocalc.core.process import one_thread
from geocalc.core.systems import Potential, Systems, copy_aligned
from geocalc.errors import FAILURES, format_error
from geocalc.optim import make_optimizer
from geocalc.potentials.calibration import Calibration
from geocalc.relaxation.loop import relax_systems
from geocalc.relaxation.state import Progress, Relaxation, Snapshot
from geocalc.relaxation.warm_start import Proposal
from geocalc.runs.records import SecondOpinion
from geocalc.runs.second_opinion import Adviser
from geocalc.runs.settings import RelaxSettings

Report = Callable[[str, int, float], None]  # sid, steps so far, fmax in eV/Angstrom


@dataclass(frozen=True, kw_only=True)
class NamedPotential:
    """A potential and what records say of it.

    Attributes:
        potential: gives energies and forces.
        name: of the model.
        hash: of its weights and settings.
        energy_kind: total, adsorption, formation or relative; None if nobody knows.
        device, dtype: where and in which floating type it computes.
        reads_tags: whether tags mean something to it; where they do not, none is judged.
        opener: makes the same potential in another process, and can be pickled; None where it lives
            in this one only.
        cutoff: radius of its graphs in Angstrom, None if it has none.
        warm_start: proposes where relaxations with it begin; see `geocalc.relaxation.warm_start`.
        stress: whether it was trained on stress, so that cells can be relaxed with it.
        calibration: how far relaxed energies may be off.
        direct: whether its energies are those of the relaxed structures, so that there is nothing
            to relax.
        second_opinion: who else is asked for relaxed energies; see `geocalc.runs.opinions`.
    """

    potential: Potential
    name: str
    hash: str
    energy_kind: str | None = None
    device: str = "cpu"
    dtype: str = "float64"
    reads_tags: bool = True
    opener: Callable[[], Potential] | None = None
    cutoff: float | None = None
    warm_start: Proposal | None = None
    stress: bool = False
    calibration: Calibration | None = None
    direct: bool = False
    second_opinion: Adviser | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One structure to relax.

    Attributes:
        number: its place in the input.
        sid: its name.
        systems: the structure alone, on the CPU.
        unrelaxed: the same as the model of the second opinion reads it; None where it is not asked.
    """

    number: int
    sid: str
    systems: Systems
    unrelaxed: Systems | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one structure: a relaxation with the geometries its trajectory keeps, or an
    error.

    Attributes:
        relaxation: None where there is an error.
        path: geometries by the number of steps that led to them.
        error: one sentence, None where there is a relaxation.
        n_steps, n_evaluations: taken until the end or the error.
        wall_s: seconds that were spent on this structure.
        final: False where memory or a lost process is to blame and not the structure, so that
            another try may end otherwise.
        second_opinion: None where none was asked, or the process was lost.
    """

    relaxation: Relaxation | None = None
    path: tuple[tuple[int, Snapshot], ...] = ()
    error: str | None = None
    n_steps: int = 0
    n_evaluations: int = 0
    wall_s: float = 0.0
    final: bool = True
    second_opinion: SecondOpinion | None = None


class Engine(Protocol):
    """Relaxes the tasks it is given, in an order and with a parallelism of its own."""

    @property
    def n_open(self) -> int:
        """Tasks that were added and not collected yet."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether another task would be of use now; where there is none, collect first."""
        ...

    def add(self, task: Task) -> None:
        """Take a task."""
        ...

    def collect(self) -> list[tuple[int, Outcome]]:
        """Work, or wait, until some tasks have ended; their numbers and outcomes. Nothing where no
        task is open.
        """
        ...

    def close(self) -> None:
        """Drop what is not finished and free everything."""
        ...


class OneByOne:
    """Works on each structure alone in this process, in the order in which they come.

    Args:
        work: what becomes of a task, such as `relax_task` with everything but the task.
    """

    def __init__(self, work: Callable[[Task], Outcome]) -> None:
        self._work = work
        self._waiting: list[Task] = []

    @property
    def n_open(self) -> int:
        """See `Engine`."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """See `Engine`."""
        return not self._waiting

    def add(self, task: Task) -> None:
        """See `Engine`."""
        self._waiting.append(task)

    def collect(self) -> list[tuple[int, Outcome]]:
        """See `Engine`."""
        if not self._waiting:
            return []
        task = self._waiting.pop(0)
        return [(task.number, self._work(task))]

    def close(self) -> None:
        """See `Engine`."""
        self._waiting.clear()


def relax_task(
    task: Task,
    potential: Potential,
    settings: RelaxSettings,
    device: str = "cpu",
    report: Report | None = None,
    warm_start: Proposal | None = None,
) -> Outcome:
    """Relax one structure alone, on one thread: the outcome depends on nothing but the arguments.

    Args:
        task: the structure.
        potential: gives energies and forces.
        settings: of the relaxation.
        device: where the structure is put.
        report: called after every evaluation.
        warm_start: proposes where to begin.
    Raises:
        InputError: the optimizer is unknown.
    """
    path: list[tuple[int, Snapshot]] = []
    step, started = -1, time.perf_counter()
    optimizer = make_optimizer(settings.optimizer)

    def observe(live: Systems, now: Snapshot, progress: Progress) -> None:
        nonlocal step
        step = int(progress.n_steps[0])
        if settings.keeps_step(step):
            path.append((step, now))
        if report is not None:
            report(task.sid, step, float(now.fmax[0]))

    try:
        with one_thread():
            systems = copy_aligned(task.systems).to(device)
            ended = relax_systems(
                systems, potential, optimizer, settings.fmax, settings.steps, observe, warm_start
            )[0]
    except FAILURES as error:
        spent = time.perf_counter() - started
        return Outcome(
            error=format_error(error), n_steps=max(step, 0), n_evaluations=step + 1, wall_s=spent
        )
    return Outcome(
        relaxation=ended,
        path=tuple(path),
        n_steps=ended.n_steps,
        n_evaluations=ended.n_evaluations,
        wall_s=time.perf_counter() - started,
    )
