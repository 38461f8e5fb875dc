"""`geocalc predict`."""

from __future__ import annotations

from pathlib import Path

import click

from geocalc.cli.options import file_options, read_options, settings_options
from geocalc.runs.settings import PredictSettings


@click.command("predict")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@settings_options(PredictSettings)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Run folder [default: <first input>-predict].",
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
    """Evaluate the structures in INPUTS as they are, without relaxing them.

    A model of relaxed energies predicts the energy (eV) after relaxation; a model of energies and
    forces evaluates a single point; a model of a property, such as the propensity of particles in a
    glass, writes the property as an array of each structure.

    Exit status: 0 all structures predicted; 1 error; 2 wrong usage; 3 some structures have an error
    or are flagged.
    """
    settings = read_options(PredictSettings, config, assignments)
    from geocalc.cli.run_model import default_folder, run_command

    folder = out or default_folder(inputs, "predict")
    click.get_current_context().exit(
        run_command("predict", inputs, folder, settings.as_relaxation(), resume)
    )
