"""`geocalc relax`."""

from __future__ import annotations

from pathlib import Path

import click

from geocalc.cli.options import file_options, read_options, settings_options
from geocalc.runs.settings import RelaxSettings


@click.command("relax")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@settings_options(RelaxSettings)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Run folder [default: <first input>-relax].",
)
@click.option("--resume", is_flag=True, help="Continue the run in the run folder.")
@file_options
def command(
    inputs: tuple[Path, ...],
    out: Path | None,
    resume: bool,
    config: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Relax the structures in INPUTS: files that ASE reads, folders of them, or OC20 LMDB.

    The run folder gets results.jsonl (a record for each structure), relaxed.extxyz, trajectory/ and
    settings.yaml. A run that was stopped continues with --resume.

    Exit status: 0 all structures converged; 1 error; 2 wrong usage; 3 some structures did not
    converge, have an error or are flagged.
    """
    settings = read_options(RelaxSettings, config, assignments)
    from geocalc.cli.run_model import default_folder, run_command

    folder = out or default_folder(inputs, "relax")
    click.get_current_context().exit(run_command("relax", inputs, folder, settings, resume))
