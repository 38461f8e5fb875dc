"""Warnings of a run, printed once at its end instead of once for every structure."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from geocalc.errors import DataWarning
from geocalc.structures.readers import LossyFormat
from geocalc.structures.tags import TagsConverted

OURS: tuple[type[Warning], ...] = (TagsConverted, LossyFormat, DataWarning)


@contextmanager
def collect_warnings() -> Iterator[None]:
    """Collect geocalc's own warnings inside the `with` block and print each kind once on standard
    error; other warnings pass unchanged.
    """
    gathered: dict[type[Warning], list[str]] = {}
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, OURS):
                gathered.setdefault(category, []).append(str(message))
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        for category in OURS:
            warnings.simplefilter("always", category)
        try:
            yield
        finally:
            for texts in gathered.values():
                more = f" (and {len(texts) - 1} more like it)" if len(texts) > 1 else ""
                click.echo(f"note: {texts[0]}{more}", err=True)
