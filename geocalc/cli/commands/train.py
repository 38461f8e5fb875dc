"""`geocalc train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geocalc.cli.options import read_options, settings_options
from geocalc.train.run_settings import TrainSettings

if TYPE_CHECKING:
    from geocalc.train.loop import TrainingProgress


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path))
@settings_options(TrainSettings)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Run folder [default: runs/<recipe name>].",
)
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint.")
@click.option(
    "--from",
    "begin",
    default=None,
    metavar="MODEL",
    help="Fine-tune this model; RECIPE may be a file of labeled structures.",
)
@click.option(
    "--teacher",
    default=None,
    metavar="MODEL",
    help="With --from and a file of relaxed structures: label displaced copies of them with this"
    " model; no forces are needed.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one setting of the recipe; repeatable.",
)
def command(
    recipe: Path,
    out: Path | None,
    resume: bool,
    begin: str | None,
    teacher: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Train a model from a RECIPE (YAML). A run that was killed continues with --resume and gives
    the same model.

    With --from MODEL and a file of labeled structures as RECIPE, the model is fine-tuned on them:
    they are split by relaxation, reference energies are fitted again, and errors on held-out
    structures are printed before and after.

    With --teacher, the file needs energies of relaxed structures alone. Displaced copies of each
    get the differences that the teacher predicts, so that the model learns forces around them.
    """
    settings = read_options(TrainSettings)
    from geocalc.cli.train import train_command

    report = _print_progress if sys.stderr.isatty() else None
    summary = train_command(recipe, out, resume, assignments, settings, report, begin, teacher)
    if summary is not None:
        click.echo(summary)


def _print_progress(progress: TrainingProgress) -> None:
    left = progress.seconds / max(1, progress.done_here) * (progress.steps - progress.step)
    click.echo(f"step {progress}  {left / 60:.0f} min left", err=True)
