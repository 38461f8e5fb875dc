"""`geocalc relax` and `geocalc predict`: a model over input files, into a run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from geocalc.api import named_potential
from geocalc.campaign import jobs_of, open_run_folder, run_relaxation
from geocalc.readers import read_structures
from geocalc.records import Record, exit_status, format_table
from geocalc.registry import load_model
from geocalc.relax_settings import RelaxSettings
from geocalc.settings import override, read_yaml


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
        verb: relax or predict. inputs: files and folders. out: run folder.
        defaults, explicit: settings by default and as given on the command line. config: YAML between the two.
        assignments: `key=value`, last word. resume: go on with what the folder holds.
    """
    values = {**defaults, **(read_yaml(config) if config else {}), **explicit}
    settings = RelaxSettings.parse(override(values, assignments), str(config or "settings"))
    model = load_model(settings.model, device=settings.device, dtype=settings.dtype, frames=settings.frames)
    torch.set_num_threads(1)  # one structure of this size is slower on two threads than on one
    potential = named_potential(model, settings)
    folder = open_run_folder(out, potential, settings, inputs=[str(path) for path in inputs], resume=resume)
    jobs = jobs_of(read_structures(inputs, tolerant=True))
    records = list(_watched(run_relaxation(jobs, potential, settings, folder), verb))
    click.echo(format_table(records))
    click.echo(f"energies are {model.card.energy_kind.value} energies: {model.card.references}")
    click.echo(f"results in {folder.path}")
    return exit_status(records)


def _watched(records: Iterator[Record], verb: str) -> Iterator[Record]:
    """Pass records on under a progress bar, silent when not a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(verb, total=None)
        converged, started = 0, time.monotonic()
        for number, record in enumerate(records, start=1):
            converged += record.converged
            rate = number / max(1e-9, time.monotonic() - started)
            bar.update(task, advance=1, description=f"{verb}: {number} done, {converged} converged, {rate:.1f}/s")
            yield record
