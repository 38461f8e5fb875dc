"""Kill a run repeatedly, resume it every time, and compare its results with those of an undisturbed
run.

Usage:
    python workflows/kill-and-resume/run.py [--structures 200] [--kills 20] [--workers 1,2]
        [--seed 0]

Writes kills.json and the table of README.md; exits with status 1 if anything differs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from ase.io import write
from processes import killed, undisturbed

from geocalc.runs import Record

HERE = Path(__file__).parent
METALS, ADSORBATES = ("Cu", "Ag", "Pd", "Pt", "Ni", "Rh"), ("H", "O", "N", "C")
RATTLE = 0.1  # Angstrom
EARLY = 0.2  # of the kills come while a process starts, whatever is finished by then


@dataclass(frozen=True)
class Row:
    """One line of the table: what a run went through, and what it lost, repeated or changed.

    Attributes:
        workers, structures, kills: of the run.
        in_start, in_line: kills before anything new was finished, and kills that cut a line of the
            journal.
        lost, repeated, other_records, other_geometries: structures without a record, with two, with
            other values, with other geometries.
        recomputed: journal lines that did not outlive the next start.
        seconds_alone, seconds_killed: undisturbed, and with all kills and starts.
    """

    workers: int
    structures: int
    kills: int
    in_start: int
    in_line: int
    lost: int
    repeated: int
    recomputed: int
    other_records: int
    other_geometries: int
    seconds_alone: float
    seconds_killed: float

    @property
    def faults(self) -> int:
        """What must be zero."""
        return (
            self.lost + self.repeated + self.recomputed + self.other_records + self.other_geometries
        )


def structures(n: int, seed: int) -> list[Atoms]:
    """Slabs of eight metal atoms with one adsorbed atom, the lower layer fixed, rattled."""
    rng, made = np.random.default_rng(seed), []
    for k in range(n):
        slab = fcc111(METALS[k % len(METALS)], (2, 2, 2), vacuum=7.0)
        add_adsorbate(slab, ADSORBATES[k // len(METALS) % len(ADSORBATES)], 1.4, "fcc")
        slab.set_tags([0] * 4 + [1] * 4 + [2])
        slab.pbc = (True, True, False)
        slab.set_constraint(FixAtoms(range(4)))
        slab.positions[4:] += rng.normal(scale=RATTLE, size=(5, 3))
        slab.info = {"sid": f"{slab.symbols}-{k}"}
        made.append(slab)
    return made


def records(out: Path) -> list[Record]:
    """Those of a run, without the time they took."""
    lines = (out / "results.jsonl").read_text().splitlines()
    return [replace(Record.from_json(line), wall_s=0.0) for line in lines]


def files(out: Path) -> dict[str, bytes]:
    """Geometries that a run wrote: the relaxed ones and the trajectories, and drafts that should be
    gone.
    """
    found = [out / "relaxed.extxyz", *(out / "trajectory").iterdir(), *out.glob("*.part")]
    return {path.name: path.read_bytes() for path in found}


def compare(folder: Path, workers: int, n: int, kills: int, seed: int) -> Row:
    """One undisturbed run and one that is killed."""
    source, alone, cut = (
        folder / "input.extxyz",
        folder / f"alone-{workers}",
        folder / f"cut-{workers}",
    )
    first, seconds = undisturbed(source, alone, workers)
    rng, each = np.random.default_rng(seed), (seconds - first) / n
    finished = np.sort(rng.integers(0, max(1, n - 5), kills)).tolist()
    moments = [
        (0, rng.uniform(0.0, first)) if rng.random() < EARLY else (k, rng.uniform(0.0, 3 * each))
        for k in finished
    ]
    in_start, in_line, recomputed, seconds_killed = killed(source, cut, workers, moments)
    wanted, found = records(alone), records(cut)
    by_sid, theirs, ours = {r.sid: r for r in found}, files(alone), files(cut)
    return Row(
        workers=workers,
        structures=n,
        kills=kills,
        in_start=in_start,
        in_line=in_line,
        lost=len({r.sid for r in wanted} - set(by_sid)) + n - len(wanted),
        repeated=len(found) - len(by_sid),
        recomputed=recomputed,
        other_records=sum(by_sid.get(r.sid) != r for r in wanted),
        other_geometries=sum(theirs.get(name) != ours.get(name) for name in theirs | ours),
        seconds_alone=round(seconds, 1),
        seconds_killed=round(seconds_killed, 1),
    )


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| | " + " | ".join(f"{r.workers} worker{'s' * (r.workers > 1)}" for r in rows) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for name in list(asdict(rows[0]))[1:]:
        lines.append(
            f"| {name.replace('_', ' ')} | "
            + " | ".join(f"{getattr(r, name):g}" for r in rows)
            + " |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--structures", "n", default=200, show_default=True)
@click.option("--kills", default=20, show_default=True)
@click.option("--workers", default="1,2", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--dry", is_flag=True, help="Print the table and write nothing.")
def main(n: int, kills: int, workers: str, seed: int, dry: bool) -> None:
    """Run and write."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "input.extxyz"), structures(n, seed), format="extxyz")
        rows = [compare(Path(folder), int(word), n, kills, seed) for word in workers.split(",")]
    print(table(rows))
    if not dry:
        (HERE / "kills.json").write_text(
            json.dumps({"seed": seed, "rows": [asdict(r) for r in rows]}, indent=1) + "\n"
        )
        page = HERE / "README.md"
        head, rest = page.read_text().split("<!-- table -->\n")
        page.write_text(
            f"{head}<!-- table -->\n{table(rows)}\n<!-- /table -->{rest.split('<!-- /table -->')[1]}"
        )
    sys.exit(any(r.faults for r in rows))


if __name__ == "__main__":
    main()
