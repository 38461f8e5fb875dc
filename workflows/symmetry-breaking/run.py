"""Find the symmetry that relaxed weights break: shapes, a charged particle in fields, phases of
BaTiO3, adsorbates on metals.

Usage:
    python workflows/symmetry-breaking/run.py shapes|field|phases|adslabs|report [--seeds 0,1,2]
        [--steps N] [--out DIR]

The first four run the training that is missing in runs/symmetry-breaking; `phases` and `adslabs`
read $GEOCALC_DATA. `report` writes results.json, the tables of README.md and the plots.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import figures
import page
from adslabs import FOLDER, adslabs_command
from adslabs_report import draw, read_judged, read_no_force
from field import ALONG_AXES, FREE, fit_field
from longer import read_longer
from phases import ORTHORHOMBIC, TETRAGONAL, fit_phase
from record import FieldFit, Fit, T, kept, load
from shapes import fit_shape, shapes

from geocalc.core import configure_process

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "symmetry-breaking"
NETWORKS = (("equivariant", False), ("relaxed", True))
LAYERS = (("one", 1), ("two", 2))


def shape_fits(seeds: str, steps: int | None) -> Iterator[tuple[str, Callable[[], Fit]]]:
    """Name and training of each shape, for each network and seed."""
    given = {} if steps is None else {"steps": steps}
    for shape in shapes():
        for network, relaxed in NETWORKS:
            for seed in map(int, seeds.split(",")):
                name = f"{shape.name.replace(' ', '-')}-{network}-{seed}"
                yield name, partial(fit_shape, shape, relaxed=relaxed, seed=seed, **given)


def phase_fits(seeds: str, steps: int | None) -> Iterator[tuple[str, Callable[[], Fit]]]:
    """Name and training of each phase, for each network and seed."""
    given, data = (
        {} if steps is None else {"steps": steps},
        Path(os.environ.get("GEOCALC_DATA", ".")),
    )
    for phase in (TETRAGONAL, ORTHORHOMBIC):
        for network, relaxed in NETWORKS:
            for seed in map(int, seeds.split(",")):
                yield (
                    f"{phase.name}-{network}-{seed}",
                    partial(fit_phase, phase, data, relaxed=relaxed, seed=seed, **given),
                )


def field_fits(seeds: str, steps: int | None) -> Iterator[tuple[str, Callable[[], FieldFit]]]:
    """Name and training of each kind of fields, for relaxed networks of one and two layers and an
    equivariant one.
    """
    given = {} if steps is None else {"steps": steps}
    for kind in (ALONG_AXES, FREE):
        for seed in map(int, seeds.split(",")):
            own = f"{kind.replace(' ', '-')}-{seed}"
            for word, layers in LAYERS:
                yield (
                    f"{word}-{own}",
                    partial(fit_field, kind, layers=layers, relaxed=True, seed=seed, **given),
                )
            if kind == ALONG_AXES:
                yield (
                    f"equivariant-{own}",
                    partial(fit_field, kind, layers=2, relaxed=False, seed=seed, **given),
                )


@click.group()
def main() -> None:
    """Relaxed weights learn which symmetry is broken."""
    configure_process()


seeds_option = click.option(
    "--seeds",
    default="0,1,2",
    show_default=True,
    help="Of weights, and of fields where they are drawn.",
)
steps_option = click.option(
    "--steps", type=int, default=None, help="Of a descent, instead of its own number."
)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=RUNS,
    help="Where the runs are [default: runs/symmetry-breaking].",
)


@main.command("shapes")
@seeds_option
@steps_option
@out_option
def shapes_command(seeds: str, steps: int | None, out: Path) -> None:
    """A cube becomes a prism, a brick, an irregular shape, or stays."""
    for name, make in shape_fits(seeds, steps):
        _say(name, kept(Fit, out / "shapes" / f"{name}.json", make))


@main.command("phases")
@seeds_option
@steps_option
@out_option
def phases_command(seeds: str, steps: int | None, out: Path) -> None:
    """BaTiO3 leaves its cubic phase."""
    for name, make in phase_fits(seeds, steps):
        _say(name, kept(Fit, out / "phases" / f"{name}.json", make))


@main.command("field")
@seeds_option
@steps_option
@out_option
def field_command(seeds: str, steps: int | None, out: Path) -> None:
    """A charged particle in electric and magnetic fields."""
    for name, make in field_fits(seeds, steps):
        _say(name, kept(FieldFit, out / "field" / f"{name}.json", make))


@main.command("report")
@seeds_option
@out_option
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=HERE,
    help="Where README.md is [default: beside this file].",
)
def report_command(seeds: str, out: Path, to: Path) -> None:
    """Numbers, tables and pictures of all experiments, every one of which must be finished."""
    shape_runs = _finished(Fit, out / "shapes", [name for name, _ in shape_fits(seeds, None)])
    phase_runs = _finished(Fit, out / "phases", [name for name, _ in phase_fits(seeds, None)])
    field_runs = _finished(FieldFit, out / "field", [name for name, _ in field_fits(seeds, None)])
    judged = read_judged(out / FOLDER)
    nothing, models = (
        read_no_force(out / FOLDER) if judged else None,
        read_longer(out / "longer" / "models"),
    )
    page.write(shape_runs, field_runs, phase_runs, judged, nothing, models, to)
    figures.draw_shapes(shape_runs, to / "shapes.png")
    figures.draw_field(field_runs, to / "field.png")
    if nothing is not None:
        draw(judged, nothing, to / "adslabs.png")


def _finished(kind: type[T], folder: Path, names: list[str]) -> list[T]:
    """The runs of an experiment, in order."""
    missing = [name for name in names if not (folder / f"{name}.json").is_file()]
    if missing:
        raise SystemExit(
            f"{missing[0]} is not in {folder}; run {folder.name} with the same options first"
        )
    return [load(kind, folder / f"{name}.json") for name in names]


def _say(name: str, fit: Fit | FieldFit) -> None:
    print(
        f"{name}: mean squared error {fit.loss:.3g} of {fit.target:.3g}, {fit.seconds:.1f} s",
        flush=True,
    )


main.add_command(adslabs_command)

if __name__ == "__main__":
    main()
