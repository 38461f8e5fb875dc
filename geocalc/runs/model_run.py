"""A loaded model of any kind, ready to run over structures into a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from geocalc.runs.folder import RunFolder
from geocalc.runs.forms import Input
from geocalc.runs.records import Record


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """A loaded model with the settings of a run.

    Attributes:
        open_folder: opens the run folder at a path, for inputs by name; the last argument says
            whether results that are there are continued.
        run: computes structures, keeps each record in the folder before it is yielded, and closes
            the folder.
        note: a sentence on the predicted quantity, printed below the table of results.
    """

    open_folder: Callable[[Path, Sequence[str], bool], RunFolder]
    run: Callable[[Iterable[Input], RunFolder], Iterator[Record]]
    note: str
