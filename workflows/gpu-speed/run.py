"""Measure every shipped model on a GPU: microseconds for each atom and step, and relaxed adslabs a
second.

Usage:
    python workflows/gpu-speed/run.py [--device cpu] [--minutes 8]

Rows that FOLDER/speed.jsonl holds are not measured again, so that the script can be stopped at any
time. At the end the table of README.md is written; with `--device cpu` it is printed instead.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmark-relaxation"))
from overhead import slabs

import geocalc
from geocalc.core import configure_process
from geocalc.errors import ModelFileError
from geocalc.runs import RelaxSettings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SIZES = (37, 101, 201)  # atoms of slabs of Cu(111) with an O atom
STEPS = 10  # of a batch in which no structure converges
NEVER, FMAX = 1e-9, 0.05  # eV/Angstrom
LONGEST = 20.0  # seconds of a measurement; larger batches are left out beyond it
N_RELAXED = 256


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        model: name.
        n_atoms: of each structure.
        batch: structures computed together.
        seconds: of all their steps.
        steps: of all structures together.
        relaxed: whether structures were relaxed to FMAX; otherwise each took STEPS steps.
        error: why there are no figures, or "".
    """

    model: str
    n_atoms: int
    batch: int
    seconds: float
    steps: int
    relaxed: bool = False
    error: str = ""

    @property
    def key(self) -> tuple[str, int, int, bool]:
        """What was measured."""
        return self.model, self.n_atoms, self.batch, self.relaxed

    @property
    def us(self) -> float:
        """Microseconds for each atom and step: the time divided by the sum of atoms times steps."""
        return 1e6 * self.seconds / (self.n_atoms * self.steps)


def measure(model: str, n_atoms: int, batch: int, device: str, relaxed: bool = False) -> Row:
    """Relax a batch, after one step of it that loads and compiles everything."""
    structures = slabs(batch, n_atoms)
    steps, fmax = (300, FMAX) if relaxed else (STEPS, NEVER)

    def relax(most: int) -> tuple[float, list[geocalc.Result]]:
        start = time.perf_counter()
        found = geocalc.relax(
            structures,
            settings=RelaxSettings(
                model=model, device=device, fmax=fmax, steps=most, batch_edges=10**9, workers=1
            ),
        )
        return time.perf_counter() - start, found

    relax(1)
    seconds, results = relax(steps)
    errors = [result.record.error for result in results if result.record.error]
    evaluations = sum(result.record.n_evaluations for result in results)
    return Row(model, n_atoms, batch, seconds, evaluations, relaxed, errors[0] if errors else "")


def batches(device: str) -> Sequence[int]:
    """Sizes of batches, growing."""
    return (1, 8, 32, 128, 512, 2048) if device.startswith("cuda") else (1, 4)


def potentials() -> Iterator[str]:
    """Names of the shipped models of energies and forces."""
    for name in geocalc.list_models():
        with suppress(ModelFileError):  # of another task
            if geocalc.load_model(name, device="cpu").card.task.value == "s2ef":
                yield name


def work(device: str) -> Iterator[tuple[str, int, int, bool]]:
    """What is measured, the most important first."""
    models = list(potentials())
    for model in models:
        yield model, 37, N_RELAXED if device.startswith("cuda") else 4, True
    for n_atoms in SIZES:
        for model in models:
            for batch in batches(device):
                yield model, n_atoms, batch, False


def table(rows: Sequence[Row], device: str) -> str:
    """The rows as a page says them."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    lines = [
        f"Measured on {name or 'a CPU'}, torch {torch.__version__}.",
        "",
        "| model | atoms | batch | us for each atom and step | relaxations of 100 steps a second | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        what = f"{row.batch / row.seconds:.2f} relaxed a second" if row.relaxed else ""
        if row.error:
            lines.append(f"| {row.model} | {row.n_atoms} | {row.batch} | | | {row.error} |")
        else:
            per_second = 1e6 / (row.us * row.n_atoms * 100)
            lines.append(
                f"| {row.model} | {row.n_atoms} | {row.batch} | {row.us:.2f} | {per_second:.2f} |"
                f" {what} |"
            )
    return "\n".join(lines)


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--minutes", default=8.0, show_default=True, help="Measurements end after it.")
@click.option("--out", type=Path, default=ROOT / "runs" / "gpu-speed", help="Folder of the rows.")
def main(device: str, minutes: float, out: Path) -> None:
    """Run the tests of GPUs, then measure."""
    configure_process()
    end = time.monotonic() + 60 * minutes
    if device.startswith("cuda"):
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", ROOT / "tests"])
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"speed-{device.partition(':')[0]}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    known, too_long = {row.key for row in rows}, set[tuple[str, int]]()
    for model, n_atoms, batch, relaxed in work(device):
        if (model, n_atoms, batch, relaxed) in known or (model, n_atoms) in too_long:
            continue
        if time.monotonic() > end:
            print("out of time; run again to go on")
            break
        row = measure(model, n_atoms, batch, device, relaxed)
        rows.append(row)
        with file.open("a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")
        print(row.key, f"{row.us:.2f} us", row.error, flush=True)
        if row.error or row.seconds > LONGEST:
            too_long.add((model, n_atoms))
    page = table(sorted(rows, key=lambda row: row.key), device)
    if device.startswith("cuda"):
        readme = HERE / "README.md"
        head, rest = readme.read_text().split("<!-- speed -->\n")
        foot = rest.split("<!-- /speed -->")[1]
        readme.write_text(f"{head}<!-- speed -->\n{page}\n<!-- /speed -->{foot}")
    else:
        print(page)


if __name__ == "__main__":
    main()
