"""`geocalc models`."""

from __future__ import annotations

import click


@click.command("models")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the installed models, or show the card of the model NAME."""
    from geocalc.cli.models import card_text, table_text

    click.echo(table_text() if name is None else card_text(name))
