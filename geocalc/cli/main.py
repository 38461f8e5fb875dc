"""The command line: a group whose commands are imported when they are used."""

from __future__ import annotations

import errno
import logging
from importlib import import_module
from typing import Any

import click

from geocalc.errors import GeoCalcError

EXIT_ERROR = 1
# name: (module that holds the command as `command`, line in `geocalc --help`)
COMMANDS = {
    "relax": ("geocalc.cli.commands.relax", "Relax structures with a model."),
    "predict": ("geocalc.cli.commands.predict", "Evaluate structures without relaxing them."),
    "evaluate": ("geocalc.cli.commands.evaluate", "Measure the errors of a model on labeled data."),
    "train": ("geocalc.cli.commands.train", "Train or fine-tune a model from a recipe."),
    "register": ("geocalc.cli.commands.register", "Make a model of a finished training run."),
    "models": ("geocalc.cli.commands.models", "List the installed models, or show one."),
    "symmetry": ("geocalc.cli.commands.symmetry", "Show which symmetries a network has broken."),
}


class _Commands(click.Group):
    """Imports a command when it is called, and turns expected errors into one sentence on standard
    error with exit status 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(COMMANDS[cmd_name][0]).command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GeoCalcError as error:
            click.echo(f"geocalc: {error}", err=True)
            ctx.exit(EXIT_ERROR)
        except OSError as error:
            # the reader of our output is gone; click ends the process quietly
            if error.errno == errno.EPIPE:
                raise
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"geocalc: {place}{error.strerror or error}", err=True)
            ctx.exit(EXIT_ERROR)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="geocalc")
@click.option("-v", "--verbose", is_flag=True, help="Log the steps of a run.")
def main(verbose: bool) -> None:
    """Relax adsorbates on surfaces with trained graph neural networks, and train the networks.

    Energies are in eV, lengths in Angstrom, forces in eV/Angstrom.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s"
    )
