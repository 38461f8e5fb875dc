"""Which engine relaxes the structures of a run: this process, worker processes, or batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from geocalc.core.process import available_cores, configure_process
from geocalc.core.systems import Potential
from geocalc.errors import InputError, format_error
from geocalc.optim import make_optimizer
from geocalc.relaxation.cell_filters import STRAINS, CellFilter
from geocalc.relaxation.cells import CellOpener, CellPotential, restored, restored_snapshot
from geocalc.relaxation.warm_start import Proposal, check_for_workers
from geocalc.runs.batching import Batches, budget_of
from geocalc.runs.direct import predict_task
from geocalc.runs.engine import Engine, NamedPotential, OneByOne, Outcome, Report, Task, relax_task
from geocalc.runs.opinions import WithOpinions, advised
from geocalc.runs.second_opinion import Adviser
from geocalc.runs.settings import ALL_STRAINS, RelaxSettings
from geocalc.runs.workers import Lost, WorkerPool

START = 2.0  # seconds; about what a process takes to start


def make_engine(
    model: NamedPotential, settings: RelaxSettings, report: Report | None = None
) -> Engine:
    """Batches on a GPU or where `batch_edges` is set; else worker processes, or this process where
    one worker is enough.

    Args:
        model: potential with its name and hash.
        settings: of the run.
        report: called after every evaluation in this process; worker processes do not call it.
    Raises:
        InputError: the optimizer is unknown, or several workers are asked for and cannot be had, or
            not with this warm start.
    """
    if model.direct:
        return _direct_engine(model, settings)
    make_optimizer(settings.optimizer)
    cell_filter = cell_filter_of(model, settings)
    if cell_filter is None:
        return _plain_engine(model, settings, report)
    opener = (
        None if model.opener is None else CellOpener(opener=model.opener, cell_filter=cell_filter)
    )
    filtered = CellPotential(potential=model.potential, cell_filter=cell_filter)
    return WithCells(
        _plain_engine(replace(model, potential=filtered, opener=opener), settings, report),
        cell_filter,
    )


def _direct_engine(model: NamedPotential, settings: RelaxSettings) -> Engine:
    if settings.steps:
        raise InputError(
            f"{model.name} predicts relaxed energies from unrelaxed structures and has no forces to"
            " relax with; use `geocalc predict` (geocalc.predict), or a model of energies and"
            " forces: see `geocalc models`"
        )
    return OneByOne(
        _advised(
            partial(predict_task, potential=model.potential, device=model.device),
            model.second_opinion,
        )
    )


def _advised(work: Callable[[Task], Outcome], adviser: Adviser | None) -> Callable[[Task], Outcome]:
    """The same work with the opinion of an adviser, if there is one."""
    return work if adviser is None else partial(advised, work=work, adviser=adviser)


def cell_filter_of(model: NamedPotential, settings: RelaxSettings) -> CellFilter | None:
    """The filter that settings ask for, None where the atoms are relaxed alone.

    Raises:
        InputError: the model was not trained on stress, or the settings contradict each other.
    """
    if settings.cell == "none":
        if settings.pressure != 0.0 or settings.cell_mask != ALL_STRAINS:
            raise InputError(
                "pressure and cell_mask are for cells that are relaxed; set cell to frechet or"
                " unit, or leave them out"
            )
        if not settings.keep_symmetry:
            return None
    elif not model.stress:
        raise InputError(
            f"{model.name} was not trained on stress, so it cannot relax a cell; use cell=none, or"
            " a model whose card says stress"
        )
    if settings.optimizer.lower() == "quasi-newton":
        raise InputError(
            "quasi-newton moves free atoms alone; use bfgs to relax a cell or to keep a symmetry"
        )
    free = () if settings.cell == "none" else settings.cell_mask.split(",")
    return CellFilter(
        kind="unit" if settings.cell == "none" else settings.cell,
        mask=tuple(name in free for name in STRAINS),
        pressure=settings.pressure,
        keep_symmetry=settings.keep_symmetry,
    )


def _plain_engine(model: NamedPotential, settings: RelaxSettings, report: Report | None) -> Engine:
    """The engine for the rows that it is given."""
    if settings.batch_edges is not None or model.device != "cpu":
        if (settings.workers or 1) > 1:
            raise InputError(
                f"{settings.workers} workers are asked for, but batches are computed in one"
                " process; use workers=1"
            )
        batches = Batches(
            model, settings, budget_of(model.hash, model.device, settings.batch_edges), report
        )
        return (
            batches if model.second_opinion is None else WithOpinions(batches, model.second_opinion)
        )
    relax = partial(
        relax_task,
        potential=model.potential,
        settings=settings,
        device=model.device,
        report=report,
        warm_start=model.warm_start,
    )
    here = OneByOne(_advised(relax, model.second_opinion))
    if model.opener is None:
        if (settings.workers or 1) > 1:
            raise InputError(f"{model.name} cannot be opened in other processes; use one worker")
        return here
    n_workers = settings.workers or available_cores()
    if n_workers == 1:
        return here
    if model.warm_start is not None:
        check_for_workers(model.warm_start)
    return InWorkers(
        here, model.opener, settings, n_workers, model.warm_start, model.second_opinion
    )


class WithCells:
    """Relaxes the cells of the tasks too, or keeps their symmetry: another engine moves the
    extended structures.

    Args:
        engine: whose potential is a `CellPotential` of the same filter.
        cell_filter: extends the structures.
    """

    def __init__(self, engine: Engine, cell_filter: CellFilter) -> None:
        self._engine, self._filter = engine, cell_filter
        self._refused: list[tuple[int, Outcome]] = []

    @property
    def n_open(self) -> int:
        """See `Engine`."""
        return self._engine.n_open + len(self._refused)

    @property
    def has_room(self) -> bool:
        """See `Engine`."""
        return self._engine.has_room and not self._refused

    def add(self, task: Task) -> None:
        """See `Engine`."""
        try:
            self._engine.add(replace(task, systems=self._filter.extend(task.systems)))
        except InputError as error:
            self._refused.append((task.number, Outcome(error=format_error(error))))

    def collect(self) -> list[tuple[int, Outcome]]:
        """See `Engine`."""
        if self._refused:
            refused, self._refused = self._refused, []
            return refused
        return [(number, self._restored(outcome)) for number, outcome in self._engine.collect()]

    def close(self) -> None:
        """See `Engine`."""
        self._engine.close()

    def _restored(self, outcome: Outcome) -> Outcome:
        ended = outcome.relaxation
        if ended is None:
            return replace(outcome, path=())
        start = ended.systems.to("cpu")
        path = tuple(
            (step, restored_snapshot(start, now, self._filter)) for step, now in outcome.path
        )
        return replace(outcome, relaxation=restored(ended, self._filter), path=path)


class InWorkers:
    """Relaxes each structure alone, several at a time in processes of their own.

    Results do not depend on the number of processes. One task for each of them waits, so that none
    of them does. A structure that comes alone stays in this process, and so do single points until
    it has shown that they take longer than processes take to start.

    Args:
        here: relaxes in this process.
        opener: makes the potential in another process.
        settings: of the relaxation.
        n_workers: processes at most.
        warm_start: proposes where to begin, and can be pickled.
        second_opinion: who else is asked, in the process that relaxes.
    """

    def __init__(
        self,
        here: OneByOne,
        opener: Callable[[], Potential],
        settings: RelaxSettings,
        n_workers: int,
        warm_start: Proposal | None = None,
        second_opinion: Adviser | None = None,
    ) -> None:
        self._here, self._n_workers = here, n_workers
        self._pool = WorkerPool(
            partial(_begin, opener, settings, warm_start, second_opinion), n_workers
        )
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


def _begin(
    opener: Callable[[], Potential],
    settings: RelaxSettings,
    warm_start: Proposal | None,
    second_opinion: Adviser | None,
) -> Callable[[Task], Outcome]:
    """What a worker process does first, and then with every task."""
    configure_process()
    return _advised(
        partial(relax_task, potential=opener(), settings=settings, warm_start=warm_start),
        second_opinion,
    )


def _outcome(found: Any) -> Outcome:
    if not isinstance(found, Lost):
        return found
    return Outcome(
        error=(
            f"the process that relaxed this structure {found.reason}, twice; relax it alone, with"
            " one worker or on more memory"
        ),
        final=False,
    )
