"""The choice of an engine for a run: this process, worker processes, or batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from geocalc.core.process import available_cores, configure_process
from geocalc.core.systems import Potential, Prediction, Systems
from geocalc.errors import InputError
from geocalc.optim.catalog import make_optimizer
from geocalc.relaxation.cell_filters import STRAINS, CellFilter
from geocalc.relaxation.degrees_of_freedom import DegreesOfFreedom
from geocalc.relaxation.loop import ATOMS_ONLY
from geocalc.relaxation.warm_start import check_for_workers
from geocalc.runs.batching import EDGES_ON_CPU, Batches, budget_of, edges_of
from geocalc.runs.engine import Engine, OneByOne, Report, predict_alone, relax_alone, with_opinion
from geocalc.runs.forms import Ended, Live
from geocalc.runs.roles import NamedPotential, SecondModel
from geocalc.runs.settings import ALL_STRAINS, RelaxSettings
from geocalc.runs.workers import Lost, WorkerPool

# times the edges that a worker computes together: what it is handed, so that it never waits
AHEAD = 1.1
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
    here = _engine_here(model, settings, freedom, report)
    if model.device != "cpu":
        if (settings.workers or 1) > 1:
            raise InputError(
                f"{settings.workers} workers are asked for, but a GPU is used by one process; use"
                " workers=1"
            )
        return here
    if model.opener is None:
        if (settings.workers or 1) > 1:
            raise InputError(f"{model.name} cannot be opened in other processes; use one worker")
        return here
    n_workers = settings.workers or available_cores()
    if n_workers == 1:
        return here
    if model.warm_start is not None:
        check_for_workers(model.warm_start)
    return InWorkers(here, model, model.opener, settings, n_workers, freedom)


def _engine_here(
    model: NamedPotential,
    settings: RelaxSettings,
    freedom: DegreesOfFreedom[Any],
    report: Report | None = None,
) -> Engine:
    """The engine of one process: batches, or one structure after the other."""
    if not in_batches(model, settings):
        relax = partial(
            relax_alone,
            potential=model.potential,
            settings=settings,
            device=model.device,
            report=report,
            warm_start=model.warm_start,
            freedom=freedom,
        )
        return OneByOne(_with_second(relax, model.second_opinion))
    budget = budget_of(model.hash, model.device, settings.batch_edges)
    batches = Batches(model, settings, budget, report, freedom)
    return (
        batches if model.second_opinion is None else WithSecondModel(batches, model.second_opinion)
    )


def in_batches(model: NamedPotential, settings: RelaxSettings) -> bool:
    """Whether structures are computed together: on a GPU, and where the model has a graph."""
    if settings.reproducible:
        return False
    return settings.batch_edges is not None or model.device != "cpu" or model.cutoff is not None


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
    """Relaxes structures in worker processes, each with an engine of its own.

    A single structure is relaxed in this process, and single points are evaluated here until they
    have taken longer than the start of a process.

    Args:
        here: relaxes in this process.
        model: with its roles, which can be pickled.
        opener: makes its potential in another process.
        settings: of the relaxation.
        n_workers: processes at most.
        freedom: the coordinates that move.
    """

    def __init__(
        self,
        here: Engine,
        model: NamedPotential,
        opener: Callable[[], Potential],
        settings: RelaxSettings,
        n_workers: int,
        freedom: DegreesOfFreedom[Any] = ATOMS_ONLY,
    ) -> None:
        self._here, self._n_workers = here, n_workers
        self._cutoff, self._batches = model.cutoff, in_batches(model, settings)
        self._edges_per_atom = 0.0
        told = replace(model, potential=_not_here, opener=None)
        self._pool = WorkerPool(
            partial(_begin, opener, told, settings, freedom),
            n_workers,
            AHEAD * (settings.batch_edges or EDGES_ON_CPU) if self._batches else 1.0,
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
        if self._here.n_open:
            return self._is_quick and self._here.has_room
        return self._pool.n_waiting < self._n_workers

    @property
    def _is_quick(self) -> bool:
        return time.monotonic() < self._quick_until

    def add(self, live: Live) -> None:
        """See `Engine`."""
        if self._is_quick:
            self._here.add(live)
            return
        if not self._started and self._first is None:
            self._first = live
            return
        self._started = True
        for one in (self._first, live):
            if one is not None:
                self._pool.add(one.number, one, self._size(one.systems))
        self._first = None

    def _size(self, systems: Systems) -> float:
        """About how many edges a structure has, if it is no less dense than the first one; 1 where
        each is computed alone.
        """
        if not self._batches:
            return 1.0
        if not self._edges_per_atom:
            self._edges_per_atom = edges_of(systems, self._cutoff) / max(1, systems.n_atoms)
        return self._edges_per_atom * systems.n_atoms

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
        self._here.close()
        self._pool.close()


def _not_here(systems: Systems) -> Prediction:
    """Stands for a potential that is opened in another process."""
    raise InputError(f"the potential for {systems.n_systems} structures is in another process")


def _begin(
    opener: Callable[[], Potential],
    model: NamedPotential,
    settings: RelaxSettings,
    freedom: DegreesOfFreedom[Any],
) -> Engine:
    """Prepare a worker process, and return its engine."""
    configure_process()
    return _engine_here(replace(model, potential=opener()), settings, freedom)


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
