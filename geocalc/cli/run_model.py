"""Runs of a model over input files, for `geocalc relax` and `geocalc predict`."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from geocalc.cli.progress import pace, progress_line
from geocalc.cli.warnings import collect_warnings
from geocalc.errors import InputError
from geocalc.runs.folder import RunFolder
from geocalc.runs.forms import inputs_of
from geocalc.runs.records import Record, exit_status
from geocalc.runs.settings import RelaxSettings
from geocalc.runs.table import format_table
from geocalc.structures.readers import Source, Unreadable, count_structures, read_structures
from geocalc.tasks import open_model


def default_folder(inputs: tuple[Path, ...], verb: str) -> Path:
    """The run folder where none is given: `<first input>-<verb>`."""
    return Path(f"{inputs[0].name.split('.')[0] or 'input'}-{verb}")


def run_command(
    verb: str, inputs: tuple[Path, ...], out: Path, settings: RelaxSettings, resume: bool
) -> int:
    """Run a model over the inputs; prints a table and returns the exit status.

    Args:
        verb: relax or predict.
        inputs: files and folders.
        out: run folder.
        settings: of the run.
        resume: continue the run in the folder.
    Raises:
        InputError: no structure can be read at all.
        RecipeError, ModelNotFoundError, ModelFileError, RunFolderError: a setting, the model or the
            folder cannot be used.
    """
    with collect_warnings():
        found = readable(inputs)
        model = open_model(settings)
        folder = model.open_folder(out, [str(path) for path in inputs], resume)
        total = count_structures(inputs) if sys.stderr.isatty() else None
        _watch(model.run(inputs_of(found), folder), verb, folder, total)
    records = list(folder.records())
    click.echo(format_table(records, shutil.get_terminal_size().columns))
    click.echo(model.note)
    click.echo(f"results in {folder.path}")
    return exit_status(records, allow_unconverged=settings.allow_unconverged)


def readable(inputs: tuple[Path, ...]) -> Iterator[Source | Unreadable]:
    """The structures of the inputs and what cannot be read among them.

    Raises:
        InputError: nothing can be read; nothing has been written then.
    """
    found = read_structures(inputs, tolerant=True)
    faults: list[Source | Unreadable] = []
    for one in found:
        if isinstance(one, Source):
            return itertools.chain(faults, [one], found)
        faults.append(one)
    first = next(
        (fault.error for fault in faults if isinstance(fault, Unreadable)),
        "the input holds no structure",
    )
    raise InputError(
        first
        + (f" (and {len(faults) - 1} more inputs that cannot be read)" if len(faults) > 1 else "")
    )


def _watch(records: Iterator[Record], verb: str, folder: RunFolder, total: int | None) -> None:
    """Run through the records under a progress line."""
    done, converged, before, started = 0, 0, len(folder), time.monotonic()
    with progress_line(verb) as show:
        for record in records:
            done, converged = done + 1, converged + record.converged
            show(
                f"{verb}:"
                f" {pace(done, total, converged, len(folder) - before, time.monotonic() - started)}"
            )
