"""`geocalc evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from geocalc.cli.options import file_options, read_options, settings_options
from geocalc.evaluation.settings import WITHOUT_LABELS, EvaluateSettings


@click.command("evaluate")
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@settings_options(EvaluateSettings)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for metrics.json and figures [default: <model>-<task>].",
)
@file_options
def command(
    model: str, data: Path, out: Path | None, config: Path | None, assignments: tuple[str, ...]
) -> None:
    """Measure the errors of MODEL on DATA: labeled structures, or a recipe, whose validation split
    is used.

    Writes metrics.json, and parity plots of energies (eV), forces (eV/Angstrom) and displacements
    to the relaxed geometry (Angstrom). --task symmetry takes about ninety evaluations of each
    structure; in float32 its numbers include rounding, in float64 they do not.
    """
    settings = read_options(EvaluateSettings, config, assignments)
    from geocalc.cli.evaluate import evaluate_command

    summary = evaluate_command(
        model, data, out or Path(f"{Path(model).name}-{settings.task}"), settings
    )
    if settings.task not in WITHOUT_LABELS:
        click.echo(json.dumps(summary, indent=1))
        return
    from rich.console import Console

    from geocalc.cli.symmetry_probe import tables

    for table in tables(summary):
        Console().print(table)
