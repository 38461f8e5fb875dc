"""`geocalc relax` and `geocalc predict`: a model over input files, into a run folder."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from geocalc.api import named_potential
from geocalc.cli.progress import pace, progress_line
from geocalc.cli.warnings import told_at_the_end
from geocalc.core.process import configure_process
from geocalc.core.settings import override, read_yaml
from geocalc.errors import InputError
from geocalc.optim import make_optimizer
from geocalc.potentials.registry import load_model
from geocalc.runs.folder import RunFolder
from geocalc.runs.records import Record, exit_status
from geocalc.runs.runner import jobs_of, open_run_folder, run_relaxation
from geocalc.runs.settings import RelaxSettings
from geocalc.runs.table import format_table
from geocalc.structures.readers import Source, Unreadable, count_structures, read_structures


def run_command(
    verb: str,
    inputs: tuple[Path, ...],
    out: Path,
    *,
    defaults: Mapping[str, Any],
    explicit: Mapping[str, Any],
    config: Path | None,
    assignments: tuple[str, ...],
    resume: bool,
) -> int:
    """Run a model over the inputs; prints a table and returns the exit status.

    Args:
        verb: relax or predict.
        inputs: files and folders.
        out: run folder.
        defaults, explicit: settings by default and as given on the command line.
        config: YAML between the two.
        assignments: `key=value`, last word.
        resume: go on with what the folder holds.
    Raises:
        InputError: no structure can be read at all.
        RecipeError, ModelNotFoundError, ModelFileError, RunFolderError: a setting, the model or the
            folder is not right.
    """
    with told_at_the_end():
        found = readable(inputs)
        values = {**defaults, **(read_yaml(config) if config else {}), **explicit}
        settings = RelaxSettings.parse(override(values, assignments), str(config or "settings"))
        model = load_model(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            frames=settings.frames,
            level=settings.level,
        )
        make_optimizer(settings.optimizer)  # an unknown name is refused before a folder is made
        configure_process()
        potential = named_potential(model, settings)
        folder = open_run_folder(
            out, potential, settings, inputs=[str(path) for path in inputs], resume=resume
        )
        total = count_structures(inputs) if sys.stderr.isatty() else None
        _watch(run_relaxation(jobs_of(found), potential, settings, folder), verb, folder, total)
    records = list(folder.records())
    click.echo(format_table(records, shutil.get_terminal_size().columns))
    click.echo(f"energies are {model.card.energy_kind.value} energies: {model.card.reference_text}")
    click.echo(f"results in {folder.path}")
    return exit_status(records)


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
