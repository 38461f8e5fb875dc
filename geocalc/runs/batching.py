"""Structures relaxed together: ended structures leave the batch, waiting ones enter, and the
memory of the device sets the size.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch

from geocalc.core.systems import Systems, concatenate, select
from geocalc.errors import GeoCalcError, format_error, format_unexpected
from geocalc.graphs.neighbors import build_graph
from geocalc.optim.catalog import make_optimizer
from geocalc.relaxation.degrees_of_freedom import DegreesOfFreedom
from geocalc.relaxation.loop import ATOMS_ONLY, ActiveBatch, start, step
from geocalc.relaxation.state import Progress, Relaxation, Snapshot
from geocalc.runs.engine import Report
from geocalc.runs.forms import Ended, Live
from geocalc.runs.roles import MODEL_ERRORS, NamedPotential
from geocalc.runs.settings import RelaxSettings

# about twenty slabs: enough to share the cost of hundreds of operations; larger batches gain little
EDGES_ON_CPU = 16_000
# a first guess for a network of 256 channels and 7 layers; memory that runs out halves the budget
EDGE_BYTES = 500_000
NEIGHBORS = 50  # counted for each atom where the potential has no cutoff
logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Budget:
    """The number of edges computed together; None before the first batch."""

    edges: float | None = None


@cache
def budget_of(model_hash: str, device: str, edges: int | None) -> Budget:
    """Look up the budget of a model on a device, which is kept as long as the process runs.

    Args:
        model_hash: of the model.
        device: its name.
        edges: at first; None to estimate them from the memory of the device.
    """
    return Budget(edges=edges)


def edges_of(systems: Systems, cutoff: float | None) -> int:
    """Edges of a structure, or an estimate where there is no cutoff or no graph."""
    estimate = NEIGHBORS * systems.n_atoms
    if cutoff is None:
        return estimate
    try:
        return max(1, build_graph(systems, cutoff).n_edges)
    except GeoCalcError:  # the evaluation ends the structure with this error
        return estimate


class Batches:
    """Relaxes structures together in this process.

    The path of a structure does not depend on its batch mates, except for the rounding of sums in
    the potential. A structure that the potential cannot evaluate is found by halving the batch, and
    ends with an error; the others go on.

    Args:
        model: potential with its name and device.
        settings: of the relaxation.
        budget: edges that are computed together; halved where memory runs out.
        report: called after every evaluation, for each structure.
        freedom: the coordinates that move.
    Raises:
        InputError, RecipeError: the optimizer is unknown, or a setting of it.
    """

    def __init__(
        self,
        model: NamedPotential,
        settings: RelaxSettings,
        budget: Budget,
        report: Report | None = None,
        freedom: DegreesOfFreedom[Any] = ATOMS_ONLY,
    ) -> None:
        self._freedom = freedom
        self._model, self._settings, self._budget, self._report = model, settings, budget, report
        self._optimizer = make_optimizer(settings.optimizer)
        self._waiting: deque[Live] = deque()
        # started, but not in the batch for lack of memory
        self._aside: deque[ActiveBatch] = deque()
        self._active: ActiveBatch | None = None
        self._notes: dict[int, _Notes] = {}  # of every open structure, by number

    @property
    def n_open(self) -> int:
        """See `geocalc.runs.engine.Engine`."""
        return len(self._notes)

    @property
    def has_room(self) -> bool:
        """See `geocalc.runs.engine.Engine`."""
        return sum(notes.edges for notes in self._notes.values()) < self._edges_allowed()

    def add(self, live: Live) -> None:
        """See `geocalc.runs.engine.Engine`."""
        self._notes[live.number] = _Notes(
            sid=live.sid, edges=edges_of(live.systems, self._model.cutoff)
        )
        self._waiting.append(live)

    def collect(self) -> list[tuple[int, Ended]]:
        """See `geocalc.runs.engine.Engine`."""
        ended: list[tuple[int, Ended]] = []
        while self._notes and not ended:
            self._fill()
            if self._active is None:
                break
            numbers, started = _numbers(self._active), time.perf_counter()
            done, left = self._step(self._active)
            self._active = left if left is not None and left.n_systems else None
            self._share_time(numbers, time.perf_counter() - started)
            for number, one in done.items():
                notes = self._notes.pop(number)
                ended.append(
                    (
                        number,
                        replace(one, path=tuple(sorted(notes.path.items())), wall_s=notes.wall_s),
                    )
                )
        return ended

    def close(self) -> None:
        """See `geocalc.runs.engine.Engine`."""
        self._waiting.clear()
        self._aside.clear()
        self._notes.clear()
        self._active = None

    def _edges_allowed(self) -> float:
        if self._budget.edges is None:
            self._budget.edges = _edges_in_memory(self._model.device)
        return self._budget.edges

    def _fill(self) -> None:
        """Bring the batch to the budget: put some structures aside, or take them back, or start
        waiting ones.
        """
        active, allowed = self._active, self._edges_allowed()
        if active is None and self._aside:
            active = self._aside.popleft()
        if active is not None:
            fits = (
                torch.tensor([self._notes[n].edges for n in _numbers(active)]).cumsum(0) <= allowed
            )
            fits[0] = True  # one structure is always tried
            fits = fits.to(active.on_trial.device)
            if not bool(fits.all()):
                self._aside.append(active.select(~fits))
                active = active.select(fits)
        used = 0 if active is None else self._weight(active)
        while active is not None and self._aside and used + self._weight(self._aside[0]) <= allowed:
            used += self._weight(self._aside[0])
            active = active.join(self._aside.popleft())
        entering: list[Live] = []
        while self._waiting and not self._aside:
            used += self._notes[self._waiting[0].number].edges
            if used > allowed and (active is not None or entering):
                break
            entering.append(self._waiting.popleft())
        if entering:
            systems = concatenate([live.systems for live in entering]).to(self._model.device)
            index = torch.tensor([live.number for live in entering], device=systems.cell.device)
            new = start(systems, self._optimizer, index, self._freedom)
            active = new if active is None else active.join(new)
        self._active = active

    def _weight(self, active: ActiveBatch) -> int:
        return sum(self._notes[n].edges for n in _numbers(active))

    def _step(self, active: ActiveBatch) -> tuple[dict[int, Ended], ActiveBatch | None]:
        """Evaluate and move all structures once; where that fails, each half alone, until the
        structure that causes the error is found.
        """
        settings = self._settings
        fault: Exception
        try:
            finished, left = step(
                active,
                self._model.potential,
                self._optimizer,
                settings.fmax,
                settings.steps,
                self._observe,
                self._model.warm_start,
                self._freedom,
            )
            return {number: _finished(end) for number, end in finished.items()}, left
        except torch.OutOfMemoryError as error:
            fault = _without_traceback(error)
            self._budget.edges = max(1.0, min(self._edges_allowed(), self._weight(active) / 2))
        except MODEL_ERRORS as error:
            fault = _without_traceback(error)
        except Exception as error:
            if active.n_systems == 1:
                sid = self._notes[_numbers(active)[0]].sid
                logger.exception("unexpected error in structure %s", sid)
            fault = _without_traceback(error)
        if isinstance(fault, torch.OutOfMemoryError) and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if active.n_systems == 1:
            return self._failed(active, fault), None
        first = (
            torch.arange(active.n_systems, device=active.on_trial.device) < active.n_systems // 2
        )
        ended, ahead = self._step(active.select(first))
        others, behind = self._step(active.select(~first))
        return ended | others, (
            ahead.join(behind) if ahead is not None and behind is not None else ahead or behind
        )

    def _failed(self, active: ActiveBatch, fault: Exception) -> dict[int, Ended]:
        number, progress = _numbers(active)[0], active.progress
        no_memory = isinstance(fault, torch.OutOfMemoryError)
        if no_memory:
            error = (
                f"the structure of {int(progress.n_atoms[0])} atoms needs more memory than"
                f" {self._model.device} has, even alone; use a device with more, or the CPU"
            )
        elif isinstance(fault, MODEL_ERRORS):
            error = format_error(fault)
        else:
            error = format_unexpected(fault)
        steps, evaluations = int(progress.n_steps[0]), int(progress.n_evaluations[0])
        return {
            number: Ended(
                error=error, n_steps=steps, n_evaluations=evaluations, final=not no_memory
            )
        }

    def _observe(self, live: Systems, now: Snapshot, progress: Progress) -> None:
        numbers, steps = progress.index.tolist(), progress.n_steps.tolist()
        fmax = now.fmax.tolist() if self._report is not None else []
        for k, (number, n_steps) in enumerate(zip(numbers, steps, strict=True)):
            notes = self._notes[number]
            if self._settings.keeps_step(n_steps):
                alone = torch.arange(live.n_systems, device=live.cell.device) == k
                notes.path[n_steps] = _on_cpu(select(now, live, alone))
            if self._report is not None:
                self._report(notes.sid, n_steps, fmax[k])

    def _share_time(self, numbers: list[int], seconds: float) -> None:
        total = sum(self._notes[n].edges for n in numbers)
        for number in numbers:
            self._notes[number].wall_s += seconds * self._notes[number].edges / total


class _Notes:
    """Notes on a structure until it ends."""

    def __init__(self, sid: str, edges: int) -> None:
        self.sid, self.edges = sid, edges
        self.wall_s = 0.0
        self.path: dict[int, Snapshot] = {}


def _numbers(active: ActiveBatch) -> list[int]:
    return [int(number) for number in active.progress.index.tolist()]


def _finished(end: Relaxation) -> Ended:
    return Ended(relaxation=end, n_steps=end.n_steps, n_evaluations=end.n_evaluations)


def _without_traceback(error: Exception) -> Exception:
    """The error alone: its traceback would keep the tensors of the failed batch in memory."""
    return error.with_traceback(None)


def _on_cpu(snapshot: Snapshot) -> Snapshot:
    values = {f.name: getattr(snapshot, f.name) for f in fields(snapshot)}
    return replace(
        snapshot, **{name: value.cpu() for name, value in values.items() if value is not None}
    )


def _edges_in_memory(device: str) -> float:
    if not device.startswith("cuda"):
        return float(EDGES_ON_CPU)
    free, _ = torch.cuda.mem_get_info(device)
    return max(1.0, free / EDGE_BYTES)
