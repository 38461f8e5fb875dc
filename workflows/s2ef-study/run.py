"""Compare levels of theory, an unseen metal, direct forces, and other models, on one split.

Usage:
    GEOCALC_DATA=... python workflows/s2ef-study/run.py train NAME...|measure NAME...|tight NAME...
        |speed NAME...|export|peer mace|chgnet|page

`train` fits variants of the recipe of faenet-sfa (variants.py) in runs/s2ef-study, 15 to 30 minutes
of one core each, and resumes where it was stopped; `measure` computes the errors of variants, or of
models by name or folder; `export` writes the frames for MACE and CHGNet, which run in separate
environments (mace_train.py, peer_answers.py); `peer` computes their errors; `tight` relaxes to
smaller forces; `speed` times models, on an idle machine; `page` writes results.json, the tables and
the plot.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import frames
import interpolation
import measure
import numpy as np
import page
from lightning_fabric import Fabric
from variants import ROOT, VARIANTS, recipe_of

from geocalc.core import configure_process
from geocalc.train import TrainingProgress, register_model, train

HERE = Path(__file__).parent
RUNS = ROOT / "runs" / "s2ef-study"
MODELS, RESULTS, PEERS, DATA = RUNS / "models", RUNS / "results", RUNS / "peers", RUNS / "data"
SPEED, FAR = RUNS / "speed.json", RUNS / "tight"


@click.group()
def main() -> None:
    """Energies and forces at full strength."""
    configure_process()


@main.command("train")
@click.argument("names", nargs=-1, required=True, type=click.Choice(list(VARIANTS)))
@click.option("--steps", type=int, default=None, help="Instead of the variant's, for a trial.")
def train_command(names: tuple[str, ...], steps: int | None) -> None:
    """Fit variants and make models of them."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    for name in names:

        def say(progress: TrainingProgress, name: str = name) -> None:
            print(f"{name} {progress} {progress.seconds:.0f} s", flush=True)

        train(recipe_of(VARIANTS[name], steps), RUNS / name, DATA, fabric, say)
        if not (MODELS / name).exists():
            register_model(RUNS / name, name, MODELS, DATA)


@main.command("measure")
@click.argument("names", nargs=-1, required=True)
def measure_command(names: tuple[str, ...]) -> None:
    """Errors of variants, or of any model of the same data, into a file each."""
    for name in names:
        _save(Path(name).name, measure.measure(_model(name), recipe_of(VARIANTS["joint"]), DATA))


@main.command("speed")
@click.argument("names", nargs=-1, required=True)
def speed_command(names: tuple[str, ...]) -> None:
    """Structures each second of models, and of the peers that have been timed, all in one file."""
    seconds = {
        Path(name).name: measure.seconds_of(_model(name), recipe_of(VARIANTS["alone"]))
        for name in names
    }
    seconds |= {
        path.stem.removesuffix("-seconds"): float(np.median(np.load(path)))
        for path in PEERS.glob("*-seconds.npy")
    }
    SPEED.write_text(
        json.dumps({name: 1 / value for name, value in seconds.items()}, indent=1) + "\n"
    )


@main.command("tight")
@click.argument("names", nargs=-1, required=True)
def tight_command(names: tuple[str, ...]) -> None:
    """Two hundred relaxations to 0.01 eV/A: how many run away?"""
    FAR.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = measure.tight(_model(name), recipe_of(VARIANTS["alone"]))
        (FAR / f"{Path(name).name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(name, {part: (one["n"], one["runaways"]) for part, one in found.items()}, flush=True)


def _model(name: str) -> str | Path:
    return MODELS / name if name in VARIANTS else Path(name) if "/" in name else name


@main.command("export")
def export_command() -> None:
    """Files for the peers."""
    frames.export(recipe_of(VARIANTS["alone"]), DATA, PEERS)


@main.command("peer")
@click.argument("name", type=click.Choice(["mace", "chgnet"]))
def peer_command(name: str) -> None:
    """Errors of a peer from its answers."""
    _save(name, measure.of_peer(PEERS / f"{name}.npz", recipe_of(VARIANTS["alone"]), DATA))


def _save(name: str, found: object) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(name, "measured", flush=True)


@main.command("page")
def page_command() -> None:
    """Tables and picture of what there is; what was not measured anew stays as it was."""
    before = page.read_results(HERE)
    found, far = (
        {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        for folder in (RESULTS, FAR)
    )
    measured = page.Measured(
        errors=before["errors"] | found,
        tight=before["tight"] | far,
        speed=before["speed"] | (json.loads(SPEED.read_text()) if SPEED.exists() else {}),
        interpolation=interpolation.limit(recipe_of(VARIANTS["alone"])),
    )
    page.write_page(measured, HERE)


if __name__ == "__main__":
    main()
