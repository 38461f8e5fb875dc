"""Which engine relaxes the structures of a run: this process, worker processes, or batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from geocalc.batching import Batches, budget_of
from geocalc.errors import InputError
from geocalc.optim import make_optimizer
from geocalc.process import available_cores, settle_process
from geocalc.relax_settings import RelaxSettings
from geocalc.systems import Potential
from geocalc.tasks import Engine, NamedPotential, OneByOne, Outcome, Report, Task, relax_task
from geocalc.workers import Lost, WorkerPool

START = 2.0  # seconds; about what a process takes to start


def make_engine(model: NamedPotential, settings: RelaxSettings, report: Report | None = None) -> Engine:
    """Batches on a GPU or where `batch_edges` is set; else worker processes, or this process where one worker is enough.

    Args:
        model: potential with its name and hash.
        settings: of the run.
        report: called after every evaluation in this process; worker processes do not call it.
    Raises:
        InputError: the optimiser is unknown, or several workers are asked for and cannot be had.
    """
    make_optimizer(settings.optimizer)
    if settings.batch_edges is not None or model.device != "cpu":
        if (settings.workers or 1) > 1:
            raise InputError(
                f"{settings.workers} workers are asked for, but batches are computed in one process; use workers=1"
            )
        return Batches(model, settings, budget_of(model.hash, model.device, settings.batch_edges), report)
    here = OneByOne(model.potential, settings, model.device, report)
    if model.opener is None:
        if (settings.workers or 1) > 1:
            raise InputError(f"{model.name} cannot be opened in other processes; use one worker")
        return here
    n_workers = settings.workers or available_cores()
    return here if n_workers == 1 else InWorkers(here, model.opener, settings, n_workers)


class InWorkers:
    """Relaxes each structure alone, several at a time in processes of their own.

    Results do not depend on the number of processes. One task for each of them waits, so that none of them does. A structure
    that comes alone stays in this process, and so do single points until it has shown that they take longer than processes
    take to start.

    Args:
        here: relaxes in this process.
        opener: makes the potential in another process.
        settings: of the relaxation.
        n_workers: processes at most.
    """

    def __init__(self, here: OneByOne, opener: Callable[[], Potential], settings: RelaxSettings, n_workers: int) -> None:
        self._here, self._n_workers = here, n_workers
        self._pool = WorkerPool(partial(_begin, opener, settings), n_workers)
        self._first: Task | None = None
        self._started = False
        self._quick_until = time.monotonic() + (START if settings.steps == 0 else 0.0)

    @property
    def n_open(self) -> int:
        """See `Engine`."""
        return self._pool.n_open + self._here.n_open + (self._first is not None)

    @property
    def has_room(self) -> bool:
        """See `Engine`."""
        return not self._here.n_open and self.n_open < 2 * self._n_workers

    def add(self, task: Task) -> None:
        """See `Engine`."""
        if time.monotonic() < self._quick_until:
            self._here.add(task)
            return
        if not self._started and self._first is None:
            self._first = task
            return
        self._started = True
        for one in (self._first, task):
            if one is not None:
                self._pool.add(one.number, one)
        self._first = None

    def collect(self) -> list[tuple[int, Outcome]]:
        """See `Engine`.

        Raises:
            GeoCalcError: the model cannot be opened in another process.
        """
        if self._first is not None:
            self._here.add(self._first)
            self._first = None
        if self._here.n_open:
            return self._here.collect()
        return [(number, _outcome(found)) for number, found in self._pool.collect()]

    def close(self) -> None:
        """See `Engine`."""
        self._pool.close()


def _begin(opener: Callable[[], Potential], settings: RelaxSettings) -> Callable[[Task], Outcome]:
    """What a worker process does first, and then with every task."""
    settle_process()
    return partial(_relax, opener(), settings)


def _relax(potential: Potential, settings: RelaxSettings, task: Task) -> Outcome:
    return relax_task(task, potential, settings)


def _outcome(found: Any) -> Outcome:
    if not isinstance(found, Lost):
        return found
    return Outcome(
        error=f"the process that relaxed this structure {found.reason}, twice; relax it alone, with one worker or on more memory",
        final=False,
    )
