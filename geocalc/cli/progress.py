"""A progress line on standard error, silent when that is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


def pace(done: int, total: int | None, converged: int, computed: int, seconds: float) -> str:
    """Format the progress of a run, its speed and the time left.

    Args:
        done: structures with a record.
        total: structures of the input, None if it is not known.
        converged: structures of `done` that converged.
        computed: structures of `done` that this run computed itself.
        seconds: since it began.
    """
    rate = computed / max(seconds, 1e-9)
    parts = [
        f"{done} done" if total is None else f"{done}/{total}",
        f"{converged} converged",
        f"{rate:.1f}/s",
    ]
    if total is not None and computed:
        parts.append(f"{duration((total - done) / rate)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Format a time in its two largest units: 8 s, 3 min 20 s, 5 h 12 min."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def progress_line(text: str) -> Iterator[Callable[[str], None]]:
    """Show `text` with a spinner and the time inside the `with` block; yields a function that
    replaces the text.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True
    ) as bar:
        task = bar.add_task(text, total=None)
        yield lambda now: bar.update(task, advance=1, description=now)
