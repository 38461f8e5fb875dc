"""A progress line on standard error, silent when that is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def progress_line(text: str) -> Iterator[Callable[[str], None]]:
    """Show `text` with a spinner and the time inside the `with` block; what it yields replaces the text."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda now: bar.update(task, advance=1, description=now)
