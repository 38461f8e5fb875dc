"""`geocalc symmetry`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("symmetry")
@click.argument("model")
@click.option("--group", default=None, help="Expected point group, such as D4h or 4/mmm.")
@click.option(
    "--structure",
    type=click.Path(path_type=Path),
    default=None,
    help="Expect the point group of this structure instead.",
)
@click.option("--align", is_flag=True, help="Rotate the group to the orientation that fits best.")
@click.option(
    "--tolerance",
    type=float,
    default=0.02,
    show_default=True,
    help="Relative change below which a symmetry counts as kept.",
)
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="PNG file to draw.")
def command(
    model: str,
    group: str | None,
    structure: Path | None,
    align: bool,
    tolerance: float,
    plot: Path | None,
) -> None:
    """Show which symmetries MODEL, a network with relaxed weights, has broken in training, layer by
    layer.
    """
    from geocalc.cli.symmetry import symmetry_command

    click.echo(symmetry_command(model, group, structure, align, tolerance, plot))
