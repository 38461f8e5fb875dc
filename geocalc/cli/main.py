"""The command line; every import that costs time happens inside its command."""

from __future__ import annotations

import errno
import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geocalc.errors import GeoCalcError

if TYPE_CHECKING:
    from geocalc.train.loop import TrainingProgress

EXIT_ERROR, EXIT_USAGE = 1, 2
TASKS = ("s2ef", "relax", "is2re", "symmetry", "oversmoothing")  # of `evaluate`
WITHOUT_LABELS = ("symmetry", "oversmoothing")
# what relax and predict use unless told otherwise
POTENTIAL, DIRECT_MODEL = "faenet-sfa", "faenet-is2re"


class _Group(click.Group):
    """Turns our errors into one sentence on standard error and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GeoCalcError as error:
            click.echo(f"geocalc: {error}", err=True)
            ctx.exit(EXIT_ERROR)
        except OSError as error:
            # whoever read our output has gone; click knows what to do
            if error.errno == errno.EPIPE:
                raise
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"geocalc: {place}{error.strerror or error}", err=True)
            ctx.exit(EXIT_ERROR)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="geocalc")
@click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
def main(verbose: bool) -> None:
    """Relax adsorbates on surfaces with trained graph networks, and train them. Energies in eV,
    lengths in Angstrom.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s"
    )


def _common(model: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options of every command that runs a model, which is `model` by default."""
    options = (
        click.option(
            "--model", default=model, show_default=True, help="Name or folder of a model."
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=None,
            help="Run folder [default: <stem>-<command>].",
        ),
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1."
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float64"]),
            default="float32",
            show_default=True,
        ),
        click.option(
            "--frames",
            default=None,
            help="Frame policy other than the model's: lattice (exact), cell (fast).",
        ),
        click.option(
            "--level", default=None, help="Level of theory, for models that know several."
        ),
        click.option(
            "--workers",
            type=int,
            default=None,
            help="Processes on a CPU [default: one for each core].",
        ),
        click.option(
            "--batch-edges",
            type=int,
            default=None,
            help="Edges computed together [default: what a GPU holds].",
        ),
        click.option("--strict", is_flag=True, help="Refuse tags that would have to be converted."),
        click.option("--resume", is_flag=True, help="Go on with what the run folder holds."),
        click.option(
            "--config", type=click.Path(path_type=Path), default=None, help="YAML file of settings."
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override one setting; repeatable.",
        ),
    )

    def with_options(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return with_options


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@_common(POTENTIAL)
@click.option(
    "--optimizer",
    default="auto",
    show_default=True,
    help=(
        "quasi-newton, bfgs, lbfgs, fire, fire2 or gradient-descent; auto is quasi-newton, and bfgs for"
        " cells and symmetry."
    ),
)
@click.option(
    "--fmax",
    type=float,
    default=0.05,
    show_default=True,
    help="Largest force on a free atom, eV/Angstrom.",
)
@click.option(
    "--steps", type=int, default=300, show_default=True, help="Steps allowed for each structure."
)
@click.option(
    "--traj",
    default="ends",
    show_default=True,
    help="Geometries kept: none, ends, every:N or full.",
)
@click.option(
    "--cell",
    default="none",
    show_default=True,
    help="Relax the cell too: frechet or unit, as ASE's filters.",
)
@click.option(
    "--pressure",
    type=float,
    default=0.0,
    show_default=True,
    help="On the cell, eV/Angstrom^3 (1 GPa is 0.00624).",
)
@click.option(
    "--cell-mask",
    default="xx,yy,zz,yz,xz,xy",
    show_default=True,
    help="Strains of the cell that may change.",
)
@click.option(
    "--warm-start",
    default=None,
    metavar="MODEL",
    help="Try the displacements of a model of relaxed structures first.",
)
@click.option(
    "--second-opinion",
    default=None,
    metavar="MODEL",
    help="Note what a direct model says of each relaxed energy, too.",
)
@click.option(
    "--keep-symmetry", is_flag=True, help="Keep the space group that a structure has at the start."
)
def relax(
    inputs: tuple[Path, ...],
    model: str,
    out: Path | None,
    device: str,
    dtype: str,
    frames: str | None,
    level: str | None,
    workers: int | None,
    batch_edges: int | None,
    strict: bool,
    resume: bool,
    config: Path | None,
    assignments: tuple[str, ...],
    optimizer: str,
    fmax: float,
    steps: int,
    traj: str,
    cell: str,
    pressure: float,
    cell_mask: str,
    keep_symmetry: bool,
    warm_start: str | None,
    second_opinion: str | None,
) -> None:
    """Relax structures; INPUTS are files that ASE reads, folders, or OC20 LMDB.

    Exit status: 0 all converged, 1 nothing could be computed, 2 usage, 3 finished but some
    structure did not converge, has an error or is flagged.
    """
    settings: dict[str, object] = {
        "model": model,
        "device": device,
        "dtype": dtype,
        "frames": frames,
        "level": level,
    }
    settings |= {"strict": strict, "workers": workers, "batch_edges": batch_edges}
    settings |= {"optimizer": optimizer, "fmax": fmax, "steps": steps, "traj": traj}
    settings |= {
        "cell": cell,
        "pressure": pressure,
        "cell_mask": cell_mask,
        "keep_symmetry": keep_symmetry,
    }
    settings |= {"warm_start": warm_start, "second_opinion": second_opinion}
    _run("relax", inputs, out, settings, config, assignments, resume)


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@_common(DIRECT_MODEL)
def predict(
    inputs: tuple[Path, ...],
    model: str,
    out: Path | None,
    device: str,
    dtype: str,
    frames: str | None,
    level: str | None,
    workers: int | None,
    batch_edges: int | None,
    strict: bool,
    resume: bool,
    config: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Evaluate structures as they are, without relaxing them.

    A model of relaxed energies predicts what they would relax to; a model of energies and forces
    gives a single point. A model of a property of particles, such as the propensity in a glass,
    writes it as an array of each structure.

    Exit status: 0 all predicted, 1 nothing could be computed, 2 usage, 3 finished but some
    structure has an error or is flagged.
    """
    from geocalc.cli.properties import is_property_model, predict_property_command

    if is_property_model(model):
        table, status = predict_property_command(inputs, model, out, device, resume)
        click.echo(table)
        click.get_current_context().exit(status)
    settings = {
        "model": model,
        "device": device,
        "dtype": dtype,
        "frames": frames,
        "level": level,
        "strict": strict,
        "workers": workers,
        "batch_edges": batch_edges,
        "steps": 0,
        "traj": "none",
    }
    _run("predict", inputs, out, settings, config, assignments, resume)


def _run(
    verb: str,
    inputs: tuple[Path, ...],
    out: Path | None,
    settings: Mapping[str, object],
    config: Path | None,
    assignments: tuple[str, ...],
    resume: bool,
) -> None:
    """Run a model over the input files into a run folder, with a progress line and a table at the
    end.
    """
    from geocalc.cli.relax import run_command

    ctx = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    status = run_command(
        verb,
        inputs,
        out or Path(f"{inputs[0].name.split('.')[0] or 'input'}-{verb}"),
        defaults=settings,
        explicit={
            name: value
            for name, value in settings.items()
            if ctx.get_parameter_source(name) is not default
        },
        config=config,
        assignments=assignments,
        resume=resume,
    )
    ctx.exit(status)


@main.command()
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--task", type=click.Choice(TASKS), default="s2ef", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for metrics.json and figures.",
)
@click.option(
    "--source", type=int, default=None, help="Only this source of a recipe, counted from 0."
)
@click.option("--frames", default=None, help="Frame policy other than the model's.")
@click.option("--level", default=None, help="Level of theory, for models that know several.")
@click.option("--optimizer", default="quasi-newton", show_default=True, help="For --task relax.")
@click.option(
    "--fmax", type=float, default=0.05, show_default=True, help="For --task relax, eV/Angstrom."
)
@click.option("--steps", type=int, default=300, show_default=True, help="For --task relax.")
@click.option(
    "--limit",
    type=int,
    default=32,
    show_default=True,
    help="Structures of each source, for --task symmetry and oversmoothing.",
)
@click.option(
    "--seed",
    type=int,
    default=None,
    help="For stochastic frames, and the draws of --task symmetry [default: 0].",
)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True
)
def evaluate(
    model: str,
    data: Path,
    task: str,
    out: Path | None,
    source: int | None,
    frames: str | None,
    level: str | None,
    optimizer: str,
    fmax: float,
    steps: int,
    limit: int,
    seed: int | None,
    device: str,
    dtype: str,
) -> None:
    """Errors of MODEL on DATA: labeled structures, or a recipe, whose validation split is used.

    Writes metrics.json and parity plots of energies, forces and ways to the relaxed geometry. With
    --task relax every held-out relaxation is started from its first frame and compared with its
    last. --task symmetry tells what rotations, reflections, translations and other ways to store a
    structure change, in about ninety evaluations of each; with --dtype float32 it tells rounding
    too. --task oversmoothing tells how alike the features of atoms become with depth.
    """
    from geocalc.cli.evaluate import evaluate_command

    summary = evaluate_command(
        model,
        data,
        out or Path(f"{Path(model).name}-{task}"),
        task=task,
        source=source,
        frames=frames,
        level=level,
        optimizer=optimizer,
        fmax=fmax,
        steps=steps,
        limit=limit,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    if task not in WITHOUT_LABELS:
        click.echo(json.dumps(summary, indent=1))
        return
    from rich.console import Console

    from geocalc.cli.symmetry_probe import tables

    for table in tables(summary):
        Console().print(table)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Run folder [default: runs/<recipe name>].",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option(
    "--from",
    "begin",
    default=None,
    metavar="MODEL",
    help="Go on with this model; RECIPE may be a file of structures.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one setting; repeatable.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--devices", type=int, default=1, show_default=True, help="Processes or GPUs.")
@click.option(
    "--threads", type=int, default=1, show_default=True, help="Threads of each process on a CPU."
)
@click.option(
    "--tensorboard",
    is_flag=True,
    help="Keep the learning curve for TensorBoard too, in the run folder.",
)
def train(
    recipe: Path,
    out: Path | None,
    resume: bool,
    begin: str | None,
    assignments: tuple[str, ...],
    device: str,
    devices: int,
    threads: int,
    tensorboard: bool,
) -> None:
    """Train a model from a RECIPE (YAML); killed runs go on with --resume as if nothing had
    happened.

    With --from MODEL and a file of labeled structures in place of RECIPE, that model is fine-tuned
    on them: split by relaxation, references fitted anew, errors on what is held out before and
    after.
    """
    from geocalc.cli.train import train_command

    report = _train_line if sys.stderr.isatty() else None
    said = train_command(
        recipe, out, resume, assignments, device, devices, threads, report, begin, tensorboard
    )
    if said is not None:
        click.echo(said)


def _train_line(progress: TrainingProgress) -> None:
    left = progress.seconds / max(1, progress.done_here) * (progress.steps - progress.step)
    click.echo(f"step {progress}  {left / 60:.0f} min left", err=True)


@main.command()
@click.argument("run", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name that GeoCalc(NAME) will find.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=None,
    help="Where models are kept [default: the user folder].",
)
def register(run: tuple[Path, ...], name: str, folder: Path | None) -> None:
    """Turn a finished training RUN into a model, or several of one recipe into an ensemble."""
    from geocalc.cli.register import register_command

    click.echo(register_command(run, name, folder))


@main.command()
@click.argument("model")
@click.option(
    "--group", default=None, help="Point group that one expects to be left, such as D4h or 4/mmm."
)
@click.option(
    "--structure",
    type=click.Path(path_type=Path),
    default=None,
    help="Expect the point group of this structure instead.",
)
@click.option("--align", is_flag=True, help="Rotate that group to where it fits best.")
@click.option(
    "--tolerance",
    type=float,
    default=0.02,
    show_default=True,
    help="Relative change that still counts as kept.",
)
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="PNG to draw.")
def symmetry(
    model: str,
    group: str | None,
    structure: Path | None,
    align: bool,
    tolerance: float,
    plot: Path | None,
) -> None:
    """What symmetry MODEL, a network with relaxed weights, has given up in training, layer by
    layer.
    """
    from geocalc.cli.symmetry import symmetry_command

    click.echo(symmetry_command(model, group, structure, align, tolerance, plot))


@main.command()
@click.argument("name", required=False)
def models(name: str | None) -> None:
    """List the models that are installed, or show the card of one."""
    from geocalc.cli.models import card_text, table_text

    click.echo(table_text() if name is None else card_text(name))
