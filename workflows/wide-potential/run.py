"""Make the wide potential: labels of a teacher, training in three stages, measurements.

Usage:
    GEOCALC_DATA=... python workflows/wide-potential/run.py label --teacher ENV --weights FOLDER
    GEOCALC_DATA=... python workflows/wide-potential/run.py wide
    GEOCALC_DATA=... python workflows/wide-potential/run.py real

README.md of this folder has the whole order. Everything lands in runs/wide and resumes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
import numpy as np
from agree import keep_agreed
from ase import Atoms
from ase.io import write
from corrected import (
    disagreement,
    fit_correction,
    known_sites,
    left_out_errors,
    write_corrected,
)
from label import Teacher, label_sets
from leave_out import measure_left_out, write_recipe
from lifts import write_lifts
from lights import measure_lights
from measure import FORCES, LEVELS, measure
from panel import measure_panel, panel
from parents import SETS
from peer_table import draw, keep_errors, peer_errors, read_errors, table, write_frames
from peers import PEERS
from real import prepare_real
from ship import add_figures, calibrate_bars
from sites import sites
from slabs import small_slabs, write_slabs
from wide import prepare_clean, prepare_wide

from geocalc import load_model
from geocalc.data import DISPLACEMENTS

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "wide"
WIDE, AT_DFT = "teacher-wide", "teacher-at-dft"
SITES, CORRECTED = "sites-paths.extxyz", "corrected.extxyz"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make the wide potential."""


@main.command("label")
@click.option("--teacher", type=Path, required=True, help="Virtual environment of the teacher.")
@click.option("--weights", type=Path, required=True, help="Weights of the teacher.")
@click.option("--sets", default=",".join(SETS), show_default=True)
@click.option(
    "--kinds", default=",".join(DISPLACEMENTS), show_default=True, help="A copy for each."
)
@click.option("--most", type=int, help="Structures of a set at most.")
def label_command(teacher: Path, weights: Path, sets: str, kinds: str, most: int | None) -> None:
    """Label displaced copies of relaxed DFT structures."""
    label_sets(
        sets.split(","),
        kinds.split(","),
        teacher_in(teacher, weights),
        RUNS / "labels",
        most,
    )


def teacher_in(environment: Path, weights: Path) -> Teacher:
    """The teacher of a virtual environment."""
    script = HERE / "teacher_tensornet.py"
    return Teacher(python=environment / "bin" / "python", script=script, weights=weights)


def run_teacher(
    script: str, environment: Path, weights: Path, structures: Iterable[Atoms], ends: Path
) -> None:
    """Relax structures with a script of this folder, each written to a file as it ends; those that
    the file holds are not relaxed again.
    """
    starts = ends.with_name(f"{ends.stem}-start.extxyz")
    write(starts, list(structures), format="extxyz")
    command = [environment / "bin" / "python", HERE / script, weights, starts, ends]
    threads = {"OMP_NUM_THREADS": "1", "MATGL_BACKEND": "PYG"}
    subprocess.run([str(part) for part in command], check=True, env=os.environ | threads)


@main.command("wide")
def wide_command() -> None:
    """Write the teacher's wide set with adsorption energies."""
    prepare_wide(RUNS / WIDE)
    prepare_clean(RUNS / WIDE, RUNS / "clean.extxyz")


@main.command("slabs")
@click.option("--teacher", type=Path, required=True, help="Virtual environment of the teacher.")
@click.option("--weights", type=Path, required=True, help="Weights of the teacher.")
def slabs_command(teacher: Path, weights: Path) -> None:
    """Label larger clean slabs, and gas molecules above clean slabs; after `label` and `wide`."""
    relaxed, labels = RUNS / "slabs-relaxed.extxyz", teacher_in(teacher, weights)
    run_teacher("teacher_relax.py", teacher, weights, small_slabs(), relaxed)
    write_slabs(relaxed, labels, RUNS / "slabs.extxyz")
    write_lifts(RUNS / "labels" / "gas", RUNS / "clean.extxyz", labels, RUNS / "lifts.extxyz")


@main.command("corrected")
@click.option("--teacher", type=Path, required=True, help="Virtual environment of the teacher.")
@click.option("--weights", type=Path, required=True, help="Weights of the teacher.")
def corrected_command(teacher: Path, weights: Path) -> None:
    """Move the teacher's adsorption energies to the default level; after `wide`."""
    paths, tensornet = RUNS / SITES, teacher_in(teacher, weights)
    run_teacher("teacher_paths.py", teacher, weights, sites(), paths)
    known, missing = known_sites(tensornet, RUNS / AT_DFT)
    correction = fit_correction(known, missing)
    errors = np.abs(left_out_errors(known, missing))
    print(f"left out: MAE {errors.mean():.3f} eV, median {np.median(errors):.3f} eV")
    two = [known_sites(tensornet, RUNS / AT_DFT, [name]) for name in ("wwl-simple", "mamun")]
    apart = disagreement(*two)
    print(
        f"WWL-GPR minus MamunHighT2019: {apart.mean():.2f} +- {apart.std():.2f} eV, {len(apart)} pairs"
    )
    write_corrected(RUNS / WIDE, paths, correction, RUNS / CORRECTED)


@main.command("real")
def real_command() -> None:
    """Write real DFT frames with forces."""
    prepare_real(RUNS / "real")


@main.command("hash")
@click.argument("model")
def hash_command(model: str) -> None:
    """Print the hash of a model, which the recipe of the next stage names."""
    print(load_model(model, device="cpu").hash)


@main.command("measure")
@click.argument("model")
@click.option("--sets", default=",".join((*LEVELS, *FORCES, "barriers")), show_default=True)
def measure_command(model: str, sets: str) -> None:
    """Measure a MODEL, by name or folder, on the test parts."""
    measure(model, RUNS / "measured", sets.split(","))


@main.command("peer")
@click.argument("name", type=click.Choice(list(PEERS)))
@click.option("--env", type=Path, required=True, help="Virtual environment of the peer.")
@click.option("--weights", default="", help="Weights of the peer, where it needs them.")
def peer_command(name: str, env: Path, weights: str) -> None:
    """Measure another potential on the same test frames."""
    folder = RUNS / "measured" / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    frames = folder / "frames.extxyz"
    # a model of ours is known by its own name
    own = Path(weights).name if name == "geocalc" else name
    told = folder / f"{own}.npz"
    if not frames.exists():
        write_frames(frames)
    evaluate_peer(name, env, weights, frames, told)
    keep_errors(peer_errors(own, frames, told), folder / "errors.json")


@main.command("peer-table")
def peer_table_command() -> None:
    """Print a table of all peers that were measured, and draw it to peers.png."""
    peers = read_errors(RUNS / "measured" / "peers" / "errors.json")
    print(table(peers))
    draw(peers, HERE / "peers.png")


def evaluate_peer(
    name: str, env: Path, weights: str, frames: Path, target: Path
) -> Mapping[str, np.ndarray]:
    """Energies and forces of a peer for a file; a target that exists is not made again."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [env / "bin" / "python", HERE / "peers.py", name, frames, target, weights]
        threads = {"OMP_NUM_THREADS": "1", "MATGL_BACKEND": "PYG"}
        subprocess.run([str(part) for part in command], check=True, env=os.environ | threads)
    with np.load(target) as found:
        return dict(found)


@main.command("agree")
@click.argument("name", metavar="SET")
@click.option("--second", type=click.Choice(list(PEERS)), required=True, help="Second teacher.")
@click.option("--env", type=Path, required=True, help="Virtual environment of the second teacher.")
@click.option("--weights", default="", help="Weights of the second teacher.")
def agree_command(name: str, second: str, env: Path, weights: str) -> None:
    """Keep the labels of a SET that a second teacher agrees with, in runs/wide/agreed."""
    for labels in sorted((RUNS / "labels" / name).glob("*.extxyz")):
        target = RUNS / "agreed" / name / labels.name
        if not target.exists():
            told = evaluate_peer(second, env, weights, labels, target.with_suffix(".npz"))
            keep_agreed(labels, told["energies"], told["forces"], target)


@main.command("panel")
@click.argument("model")
@click.option("--teacher", type=Path, help="Virtual environment of the teacher.")
@click.option("--weights", type=Path, help="Weights of the teacher.")
def panel_command(model: str, teacher: Path | None, weights: Path | None) -> None:
    """Relax the newcomer's panel with a MODEL; the first time with the teacher, too."""
    relaxed = RUNS / "panel-teacher.extxyz"
    if teacher is not None and weights is not None:
        run_teacher("teacher_relax.py", teacher, weights, panel(), relaxed)
    (RUNS / "measured").mkdir(exist_ok=True)
    measure_panel(model, relaxed, RUNS / "measured" / f"panel-{Path(model).name}.jsonl")


@main.command("lights")
@click.argument("model")
def lights_command(model: str) -> None:
    """Measure whether the lights of a MODEL tell right from wrong; after `measure`."""
    folder, name = RUNS / "measured", Path(model).name
    measure_lights(model, folder / f"{name}.json", folder / f"lights-{name}.json")


@main.command("without")
@click.argument("metal")
def without_command(metal: str) -> None:
    """Write the recipe without METAL in all real data, runs/wide/without-METAL.yaml; after
    `corrected`.
    """
    known, missing = known_sites(None, RUNS / AT_DFT, without=metal)
    correction = fit_correction(known, missing, unseen=[metal])
    corrected = RUNS / f"corrected-without-{metal}.extxyz"
    write_corrected(RUNS / WIDE, RUNS / SITES, correction, corrected)
    write_recipe(HERE / "finish.yaml", metal, RUNS / f"without-{metal}.yaml")


@main.command("measure-without")
@click.argument("model")
@click.argument("metal")
def measure_without_command(model: str, metal: str) -> None:
    """Measure a MODEL on the pure METAL that it has not seen in DFT."""
    found = measure_left_out(model, metal)
    target = RUNS / "measured" / f"without-{metal}-{Path(model).name}.json"
    target.write_text(json.dumps(found, indent=1))


@main.command("calibrate")
@click.argument("folder", type=Path)
def calibrate_command(folder: Path) -> None:
    """Calibrate the error bars of the model in FOLDER on validation structures."""
    calibrate_bars(folder)


@main.command("figures")
@click.argument("folder", type=Path)
def figures_command(folder: Path) -> None:
    """Write what was measured of the model in FOLDER into its metrics.json."""
    add_figures(folder, RUNS / "measured")


if __name__ == "__main__":
    main()
