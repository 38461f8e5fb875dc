"""Make the wide potential: labels of a teacher, training in three stages, measurements.

Usage:
    GEOCALC_DATA=... python workflows/wide-potential/run.py label --teacher ENV --weights FOLDER
    GEOCALC_DATA=... python workflows/wide-potential/run.py wide
    GEOCALC_DATA=... python workflows/wide-potential/run.py real

README.md of this folder has the whole order. Everything lands in runs/wide and resumes.
"""

from __future__ import annotations

from pathlib import Path

import click
from label import Teacher, label_sets
from measure import FORCES, LEVELS, measure
from parents import SETS
from real import prepare_real
from wide import prepare_wide

from geocalc import load_model
from geocalc.data.displacements import KINDS

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "wide"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make the wide potential."""


@main.command("label")
@click.option("--teacher", type=Path, required=True, help="Virtual environment of the teacher.")
@click.option("--weights", type=Path, required=True, help="Weights of the teacher.")
@click.option("--sets", default=",".join(SETS), show_default=True)
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="A copy for each.")
@click.option("--most", type=int, help="Structures of a set at most.")
def label_command(teacher: Path, weights: Path, sets: str, kinds: str, most: int | None) -> None:
    """Label displaced copies of relaxed DFT structures."""
    label_sets(
        sets.split(","),
        kinds.split(","),
        Teacher(
            python=teacher / "bin" / "python",
            script=HERE / "teacher_tensornet.py",
            weights=weights,
        ),
        RUNS / "labels",
        most,
    )


@main.command("wide")
def wide_command() -> None:
    """Write the teacher's wide set with adsorption energies."""
    prepare_wide(RUNS / "teacher-wide")


@main.command("real")
def real_command() -> None:
    """Write real DFT frames with forces."""
    prepare_real(RUNS / "real")


@main.command("hash")
@click.argument("model", type=Path)
def hash_command(model: Path) -> None:
    """Print the hash of a model, which the recipe of the next stage names."""
    print(load_model(model, device="cpu").hash)


@main.command("measure")
@click.argument("model")
@click.option("--sets", default=",".join((*LEVELS, *FORCES, "barriers")), show_default=True)
def measure_command(model: str, sets: str) -> None:
    """Measure a MODEL, by name or folder, on the test parts."""
    measure(model, RUNS / "measured", sets.split(","))


if __name__ == "__main__":
    main()
