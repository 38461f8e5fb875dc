"""`geocalc register`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("register")
@click.argument("run", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the model.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of models [default: the user's].",
)
def command(run: tuple[Path, ...], name: str, folder: Path | None) -> None:
    """Make a model of a finished training RUN, or an ensemble of several runs of one recipe."""
    from geocalc.cli.register import register_command

    click.echo(register_command(run, name, folder))
