"""The choice of an engine for a run: this process, worker processes, or batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from geocalc.core.process import available_cores, configure_process
from geocalc.core.systems import Potential
from geocalc.errors import InputError
from geocalc.optim.catalog import make_optimizer
from geocalc.relaxation.cell_filters import STRAINS, CellFilter
from geocalc.relaxation.degrees_of_freedom import DegreesOfFreedom
from geocalc.relaxation.loop import ATOMS_ONLY
from geocalc.relaxation.warm_start import Proposal, check_for_workers
from geocalc.runs.batching import Batches, budget_of
from geocalc.runs.engine import Engine, OneByOne, Report, predict_alone, relax_alone, with_opinion
from geocalc.runs.forms import Ended, Live
from geocalc.runs.roles import NamedPotential, SecondModel
from geocalc.runs.settings import ALL_STRAINS, RelaxSettings
from geocalc.runs.workers import Lost, WorkerPool

START = 2.0  # seconds; about the time that a process takes to start
logger = logging.getLogger(__name__)


def make_engine(
    model: NamedPotential, settings: RelaxSettings, report: Report | None = None
) -> Engine:
    """Choose the engine of a run: batches on a GPU or where `batch_edges` is set; otherwise worker
    processes, or this process where one worker is enough.

    Args:
        model: potential with its name and hash.
        settings: of the run.
        report: called after every evaluation in this process; worker processes do not call it.
    Raises:
        InputError, RecipeError: see `check_settings`; or several workers are asked for and cannot
            be used, or not with this warm start.
    """
    check_settings(model, settings)
    if model.direct:
        predict = partial(predict_alone, potential=model.potential, device=model.device)
        return OneByOne(_with_second(predict, model.second_opinion))
    freedom = cell_filter_of(model, settings) or ATOMS_ONLY
    return _relaxation_engine(model, settings, report, freedom)


def _with_second(
    work: Callable[[Live], Ended], second: SecondModel | None
) -> Callable[[Live], Ended]:
    """The same work with the opinion of a second model, if there is one."""
    return work if second is None else partial(with_opinion, work=work, second=second)


def check_settings(model: NamedPotential, settings: RelaxSettings) -> None:
    """Refuse settings that no engine can follow, before anything is computed or written.

    Raises:
        InputError, RecipeError: the optimizer or one of its settings is unknown; the model cannot
            relax, or not cells; or the settings contradict each other.
    """
    if model.direct and settings.steps:
        raise InputError(
            f"{model.name} predicts relaxed energies from unrelaxed structures and has no forces to"
            " relax with; use `geocalc predict` (geocalc.predict), or a model of energies and"
            " forces: see `geocalc models`"
        )
    make_optimizer(settings.optimizer)
    cell_filter_of(model, settings)


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
    if settings.optimizer.name.lower() == "quasi-newton":
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


def _relaxation_engine(
    model: NamedPotential,
    settings: RelaxSettings,
    report: Report | None,
    freedom: DegreesOfFreedom[Any],
) -> Engine:
    """Choose the engine that moves these degrees of freedom."""
    if settings.batch_edges is not None or model.device != "cpu":
        if (settings.workers or 1) > 1:
            raise InputError(
                f"{settings.workers} workers are asked for, but batches are computed in one"
                " process; use workers=1"
            )
        budget = budget_of(model.hash, model.device, settings.batch_edges)
        batches = Batches(model, settings, budget, report, freedom)
        return (
            batches
            if model.second_opinion is None
            else WithSecondModel(batches, model.second_opinion)
        )
    relax = partial(
        relax_alone,
        potential=model.potential,
        settings=settings,
        device=model.device,
        report=report,
        warm_start=model.warm_start,
        freedom=freedom,
    )
    here = OneByOne(_with_second(relax, model.second_opinion))
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
        here, model.opener, settings, n_workers, model.warm_start, model.second_opinion, freedom
    )


class WithSecondModel:
    """Adds second opinions, computed in this process, to the structures of another engine.

    Args:
        engine: relaxes.
        second: gives the opinions.
    """

    def __init__(self, engine: Engine, second: SecondModel) -> None:
        self._engine, self._second = engine, second
        self._open: dict[int, Live] = {}

    @property
    def n_open(self) -> int:
        """See `Engine`."""
        return self._engine.n_open

    @property
    def has_room(self) -> bool:
        """See `Engine`."""
        return self._engine.has_room

    def add(self, live: Live) -> None:
        """See `Engine`."""
        self._open[live.number] = live
        self._engine.add(live)

    def collect(self) -> list[tuple[int, Ended]]:
        """See `Engine`."""
        return [
            (number, self._with_opinion(self._open.pop(number), ended))
            for number, ended in self._engine.collect()
        ]

    def close(self) -> None:
        """See `Engine`."""
        self._engine.close()
        self._open.clear()

    def _with_opinion(self, live: Live, ended: Ended) -> Ended:
        return with_opinion(live, lambda _: ended, self._second)


class InWorkers:
    """Relaxes each structure alone, several at a time in worker processes.

    Results do not depend on the number of processes. One structure per process is kept waiting, so
    that no process is idle. A single structure is relaxed in this process, and single points are
    evaluated here until they have taken longer than the start of a process.

    Args:
        here: relaxes in this process.
        opener: makes the potential in another process.
        settings: of the relaxation.
        n_workers: processes at most.
        warm_start: proposes where to begin, and can be pickled.
        second_opinion: model that gives second opinions, in the process that relaxes.
        freedom: the coordinates that move.
    """

    def __init__(
        self,
        here: OneByOne,
        opener: Callable[[], Potential],
        settings: RelaxSettings,
        n_workers: int,
        warm_start: Proposal | None = None,
        second_opinion: SecondModel | None = None,
        freedom: DegreesOfFreedom[Any] = ATOMS_ONLY,
    ) -> None:
        self._here, self._n_workers = here, n_workers
        self._pool = WorkerPool(
            partial(_begin, opener, settings, warm_start, second_opinion, freedom), n_workers
        )
        self._first: Live | None = None
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

    def add(self, live: Live) -> None:
        """See `Engine`."""
        if time.monotonic() < self._quick_until:
            self._here.add(live)
            return
        if not self._started and self._first is None:
            self._first = live
            return
        self._started = True
        for one in (self._first, live):
            if one is not None:
                self._pool.add(one.number, one)
        self._first = None

    def collect(self) -> list[tuple[int, Ended]]:
        """See `Engine`.

        Raises:
            GeoCalcError: the model cannot be opened in another process.
        """
        if self._first is not None:
            self._here.add(self._first)
            self._first = None
        if self._here.n_open:
            return self._here.collect()
        return [(number, _ended(found)) for number, found in self._pool.collect()]

    def close(self) -> None:
        """See `Engine`."""
        self._pool.close()


def _begin(
    opener: Callable[[], Potential],
    settings: RelaxSettings,
    warm_start: Proposal | None,
    second_opinion: SecondModel | None,
    freedom: DegreesOfFreedom[Any],
) -> Callable[[Live], Ended]:
    """Prepare a worker process, and return its work on one structure."""
    configure_process()
    return _with_second(
        partial(
            relax_alone,
            potential=opener(),
            settings=settings,
            warm_start=warm_start,
            freedom=freedom,
        ),
        second_opinion,
    )


def _ended(found: Any) -> Ended:
    if not isinstance(found, Lost):
        return found
    return Ended(
        error=(
            f"the process that relaxed this structure {found.reason}, twice; relax it alone, with"
            " one worker or on more memory"
        ),
        final=False,
    )
