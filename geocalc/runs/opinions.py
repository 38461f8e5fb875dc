"""Second opinions: what a direct model says of the relaxed energy, beside the relaxation of the
same structure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from geocalc.runs.engine import Engine, Outcome, Task
from geocalc.runs.second_opinion import Adviser


def advised(task: Task, work: Callable[[Task], Outcome], adviser: Adviser) -> Outcome:
    """What `work` makes of a task, with the opinion of the adviser, whatever becomes of the
    structure.
    """
    if task.unrelaxed is None:
        return work(task)
    started = time.perf_counter()
    opinion, spent = adviser.ask(task.unrelaxed), time.perf_counter() - started
    outcome = work(task)
    return replace(outcome, second_opinion=opinion, wall_s=outcome.wall_s + spent)


class WithOpinions:
    """Another engine, whose outcomes get an opinion in this process.

    Args:
        engine: that relaxes.
        adviser: that is asked.
    """

    def __init__(self, engine: Engine, adviser: Adviser) -> None:
        self._engine, self._adviser = engine, adviser
        self._open: dict[int, Task] = {}

    @property
    def n_open(self) -> int:
        """See `Engine`."""
        return self._engine.n_open

    @property
    def has_room(self) -> bool:
        """See `Engine`."""
        return self._engine.has_room

    def add(self, task: Task) -> None:
        """See `Engine`."""
        self._open[task.number] = task
        self._engine.add(task)

    def collect(self) -> list[tuple[int, Outcome]]:
        """See `Engine`."""
        return [
            (number, self._with_opinion(number, outcome))
            for number, outcome in self._engine.collect()
        ]

    def close(self) -> None:
        """See `Engine`."""
        self._engine.close()
        self._open.clear()

    def _with_opinion(self, number: int, outcome: Outcome) -> Outcome:
        return advised(self._open.pop(number), lambda task: outcome, self._adviser)
