"""Structures relaxed together: those that are finished leave, waiting ones enter, and memory sets
the size.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, fields, replace
from functools import cache

import torch

from geocalc.core.systems import Systems, concatenate, select
from geocalc.errors import FAILURES, format_error
from geocalc.graphs.neighbors import build_graph
from geocalc.optim.catalog import make_optimizer
from geocalc.relaxation.cell_filters import atoms_of
from geocalc.relaxation.loop import ActiveBatch, start, step
from geocalc.relaxation.state import Progress, Relaxation, Snapshot
from geocalc.runs.engine import NamedPotential, Outcome, Report, Task
from geocalc.runs.settings import RelaxSettings

EDGES_ON_CPU = 20_000  # some ten slabs; more together gain nothing in the caches of a processor
# a first guess for a network of 256 channels and 7 layers; memory that runs out halves the budget
EDGE_BYTES = 500_000
NEIGHBORS = 50  # counted for each atom where the potential has no cutoff


@dataclass(kw_only=True)
class Budget:
    """How many edges are computed together; None until the first batch asks."""

    edges: float | None = None


@cache
def budget_of(model_hash: str, device: str, edges: int | None) -> Budget:
    """The budget of a model on a device, remembered as long as the process lives.

    Args:
        model_hash: of the model.
        device: its name.
        edges: to begin with; None for what the memory of the device suggests.
    """
    return Budget(edges=edges)


class Batches:
    """Relaxes structures together in this process.

    The path of a structure does not depend on its batch mates, but for the rounding of the
    potential's sums. A structure that the potential cannot evaluate is found by halving the batch,
    and leaves alone.

    Args:
        model: potential with its name and device.
        settings: of the relaxation.
        budget: edges that are computed together; halved where memory runs out.
        report: called after every evaluation, for each structure.
    Raises:
        InputError: the optimizer is unknown.
    """

    def __init__(
        self,
        model: NamedPotential,
        settings: RelaxSettings,
        budget: Budget,
        report: Report | None = None,
    ) -> None:
        self._model, self._settings, self._budget, self._report = model, settings, budget, report
        self._optimizer = make_optimizer(settings.optimizer)
        self._waiting: deque[Task] = deque()
        # on their way, for want of memory not in the batch
        self._aside: deque[ActiveBatch] = deque()
        self._active: ActiveBatch | None = None
        self._books: dict[int, _Book] = {}  # of every open task, by number

    @property
    def n_open(self) -> int:
        """See `geocalc.runs.engine.Engine`."""
        return len(self._books)

    @property
    def has_room(self) -> bool:
        """See `geocalc.runs.engine.Engine`."""
        return sum(book.edges for book in self._books.values()) < self._edges_allowed()

    def add(self, task: Task) -> None:
        """See `geocalc.runs.engine.Engine`."""
        self._books[task.number] = _Book(sid=task.sid, edges=self._edges_of(task.systems))
        self._waiting.append(task)

    def collect(self) -> list[tuple[int, Outcome]]:
        """See `geocalc.runs.engine.Engine`."""
        ended: list[tuple[int, Outcome]] = []
        while self._books and not ended:
            self._fill()
            if self._active is None:
                break
            numbers, started = _numbers(self._active), time.perf_counter()
            outcomes, left = self._step(self._active)
            self._active = left if left is not None and left.systems.n_systems else None
            self._share_time(numbers, time.perf_counter() - started)
            for number, outcome in outcomes.items():
                book = self._books.pop(number)
                ended.append(
                    (
                        number,
                        replace(outcome, path=tuple(sorted(book.path.items())), wall_s=book.wall_s),
                    )
                )
        return ended

    def close(self) -> None:
        """See `geocalc.runs.engine.Engine`."""
        self._waiting.clear()
        self._aside.clear()
        self._books.clear()
        self._active = None

    def _edges_allowed(self) -> float:
        if self._budget.edges is None:
            self._budget.edges = _edges_in_memory(self._model.device)
        return self._budget.edges

    def _edges_of(self, systems: Systems) -> int:
        systems = atoms_of(systems)
        if self._model.cutoff is None:
            return NEIGHBORS * systems.n_atoms
        return max(1, build_graph(systems, self._model.cutoff).n_edges)

    def _fill(self) -> None:
        """Bring the batch to the budget: some step aside, or those aside return, or waiting ones
        enter.
        """
        active, allowed = self._active, self._edges_allowed()
        if active is None and self._aside:
            active = self._aside.popleft()
        if active is not None:
            fits = (
                torch.tensor([self._books[n].edges for n in _numbers(active)]).cumsum(0) <= allowed
            )
            fits[0] = True  # one structure is always tried
            fits = fits.to(active.systems.cell.device)
            if not bool(fits.all()):
                self._aside.append(active.select(~fits))
                active = active.select(fits)
        used = 0 if active is None else self._weight(active)
        while active is not None and self._aside and used + self._weight(self._aside[0]) <= allowed:
            used += self._weight(self._aside[0])
            active = active.join(self._aside.popleft())
        entering: list[Task] = []
        while self._waiting and not self._aside:
            used += self._books[self._waiting[0].number].edges
            if used > allowed and (active is not None or entering):
                break
            entering.append(self._waiting.popleft())
        if entering:
            systems = concatenate([task.systems for task in entering]).to(self._model.device)
            index = torch.tensor([task.number for task in entering], device=systems.cell.device)
            new = start(systems, self._optimizer, index)
            active = new if active is None else active.join(new)
        self._active = active

    def _weight(self, active: ActiveBatch) -> int:
        return sum(self._books[n].edges for n in _numbers(active))

    def _step(self, active: ActiveBatch) -> tuple[dict[int, Outcome], ActiveBatch | None]:
        """One evaluation and step of all; where that fails, of each half, until one structure alone
        is to blame.
        """
        settings = self._settings
        fault: BaseException
        try:
            finished, left = step(
                active,
                self._model.potential,
                self._optimizer,
                settings.fmax,
                settings.steps,
                self._observe,
                self._model.warm_start,
            )
            return {number: _finished(end) for number, end in finished.items()}, left
        except torch.OutOfMemoryError as error:
            fault = _without_traceback(error)
            self._budget.edges = max(1.0, min(self._edges_allowed(), self._weight(active) / 2))
        except FAILURES as error:
            fault = _without_traceback(error)
        if isinstance(fault, torch.OutOfMemoryError) and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if active.systems.n_systems == 1:
            return self._failed(active, fault), None
        first = (
            torch.arange(active.systems.n_systems, device=active.systems.cell.device)
            < active.systems.n_systems // 2
        )
        ended, ahead = self._step(active.select(first))
        others, behind = self._step(active.select(~first))
        return ended | others, (
            ahead.join(behind) if ahead is not None and behind is not None else ahead or behind
        )

    def _failed(self, active: ActiveBatch, fault: BaseException) -> dict[int, Outcome]:
        number, progress = _numbers(active)[0], active.progress
        error, no_memory = format_error(fault), isinstance(fault, torch.OutOfMemoryError)
        if no_memory:
            error = (
                f"the structure of {active.systems.n_atoms} atoms needs more memory than"
                f" {self._model.device} has, even alone; use a device with more, or the CPU"
            )
        steps, evaluations = int(progress.n_steps[0]), int(progress.n_evaluations[0])
        return {
            number: Outcome(
                error=error, n_steps=steps, n_evaluations=evaluations, final=not no_memory
            )
        }

    def _observe(self, live: Systems, now: Snapshot, progress: Progress) -> None:
        numbers, steps = progress.index.tolist(), progress.n_steps.tolist()
        fmax = now.fmax.tolist() if self._report is not None else []
        for k, (number, n_steps) in enumerate(zip(numbers, steps, strict=True)):
            book = self._books[number]
            if self._settings.keeps_step(n_steps):
                alone = torch.arange(live.n_systems, device=live.cell.device) == k
                book.path[n_steps] = _on_cpu(select(now, live, alone))
            if self._report is not None:
                self._report(book.sid, n_steps, fmax[k])

    def _share_time(self, numbers: list[int], seconds: float) -> None:
        total = sum(self._books[n].edges for n in numbers)
        for number in numbers:
            self._books[number].wall_s += seconds * self._books[number].edges / total


class _Book:
    """What is noted of a structure until it ends."""

    def __init__(self, sid: str, edges: int) -> None:
        self.sid, self.edges = sid, edges
        self.wall_s = 0.0
        self.path: dict[int, Snapshot] = {}


def _numbers(active: ActiveBatch) -> list[int]:
    return [int(number) for number in active.progress.index.tolist()]


def _finished(end: Relaxation) -> Outcome:
    return Outcome(relaxation=end, n_steps=end.n_steps, n_evaluations=end.n_evaluations)


def _without_traceback(error: BaseException) -> BaseException:
    """The error alone: its traceback would hold the tensors of the batch that failed."""
    return error.with_traceback(None)


def _on_cpu(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, **{f.name: getattr(snapshot, f.name).cpu() for f in fields(snapshot)})


def _edges_in_memory(device: str) -> float:
    if not device.startswith("cuda"):
        return float(EDGES_ON_CPU)
    free, _ = torch.cuda.mem_get_info(device)
    return max(1.0, free / EDGE_BYTES)
