"""Kill a run again and again, resume it every time, and compare what it leaves with a run that
nobody disturbed.

Usage: python workflows/kill-and-resume/run.py [--structures 200] [--kills 20] [--workers 1,2]
[--seed 0] Writes kills.json and the table of README.md; ends with exit status 1 where anything
differs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from ase.io import write

from geocalc.runs import Record

HERE = Path(__file__).parent
GEOCALC = (sys.executable, "-m", "geocalc")
METALS, ADSORBATES = ("Cu", "Ag", "Pd", "Pt", "Ni", "Rh"), ("H", "O", "N", "C")
# Angstrom, eV/Angstrom; some converge within the steps, some do not
RATTLE, FMAX, STEPS = 0.1, 0.1, 10
EARLY = 0.2  # of the kills come while a process starts, whatever is finished by then
FINISHED = (0, 3)


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


def start(source: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    """Begin a run, or resume it where its folder is there."""
    options = [
        "--out",
        str(out),
        "--workers",
        str(workers),
        "--fmax",
        str(FMAX),
        "--steps",
        str(STEPS),
        "--device",
        "cpu",
    ]
    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [*GEOCALC, "relax", str(source), *options, "--resume"], stdout=log, stderr=log
        )


def finish(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for the end of a run that must come to its end."""
    if process.wait() not in FINISHED:
        raise SystemExit(
            f"exit status {process.returncode}: {out.with_suffix('.log').read_text()[-2000:]}"
        )


def undisturbed(source: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds until the first record and until the end of a run that nobody kills."""
    begun = time.monotonic()
    process = start(source, out, workers)
    while process.poll() is None and not journal(out):
        time.sleep(0.05)
    first = time.monotonic() - begun
    finish(process, out)
    return first, time.monotonic() - begun


def killed(
    source: Path, out: Path, workers: int, moments: list[tuple[int, float]]
) -> tuple[int, int, int, float]:
    """Run, kill at each of the moments (finished structures, seconds after that) and resume.

    Returns:
        Kills before anything new was finished, kills inside a line, kills after which the journal
        lost lines, and seconds.
    """
    begun, before, in_start, in_line, recomputed = time.monotonic(), b"", 0, 0, 0
    for finished, delay in moments:
        process = start(source, out, workers)
        while process.poll() is None and journal(out).count(b"\n") < finished:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit(
                f"the run ended before it was killed: {out.with_suffix('.log').read_text()[-2000:]}"
            )
        left = journal(out)
        whole = left[: left.rfind(b"\n") + 1]
        recomputed += not whole.startswith(before)
        in_start, in_line, before = in_start + (whole == before), in_line + (whole != left), whole
        print(f"killed with {len(whole.splitlines())} structures finished", flush=True)
    finish(start(source, out, workers), out)
    recomputed += not journal(out).startswith(before)
    return in_start, in_line, recomputed, time.monotonic() - begun


def journal(out: Path) -> bytes:
    """What is kept of a run."""
    path = out / "journal.jsonl"
    return path.read_bytes() if path.exists() else b""


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
