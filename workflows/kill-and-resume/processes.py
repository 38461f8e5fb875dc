"""Start runs of `geocalc relax`, kill them at given moments, and resume them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

GEOCALC = (sys.executable, "-m", "geocalc")
# eV/Angstrom and steps; some relaxations converge within them, some do not
FMAX, STEPS = 0.1, 10
FINISHED = (0, 3)


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
