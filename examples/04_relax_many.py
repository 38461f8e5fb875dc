"""Lesson 4: relax many structures in parallel, and resume a killed run."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ase.io import iread

import geocalc

DATA = Path(__file__).parent / "data"

# 1. In Python. `workers` processes share the structures; the results do not depend on how many
# there are. `iter_relax` takes structures from any iterator as it needs them and hands over each
# result as it ends, so a million of them need no more memory than ten. The default optimizer,
# `quasi-newton`, asks the model about half as often as `bfgs`, which takes the same steps as ASE's.
# Worker processes do not import this file, so it needs no `if __name__ == "__main__"`.
structures = iread(DATA / "adslabs.extxyz", ":4")
energies = {}
for result in geocalc.iter_relax(structures, "regnn-wide", workers=2):
    record = result.record
    print(
        f"#{result.number} {record.sid:<20} {record.status:<10} {record.n_evaluations:>3} model"
        f" calls {record.energy:8.3f} eV"
    )
    # results come in the order in which they end; `number` is the place in the input
    energies[record.sid] = record.energy

# 2. From a shell, into a run folder: geocalc relax adslabs.extxyz --workers 2 --out run
# The record of every structure is written when its relaxation ends. Here the run is killed after
# two.
folder = Path(tempfile.mkdtemp(prefix="geocalc-")) / "run"
results = folder / "results.jsonl"
command = [
    sys.executable,
    "-m",
    "geocalc",
    "relax",
    str(DATA / "adslabs.extxyz"),
]
command += ["--workers", "2", "--out", str(folder)]


def finished() -> list[str]:
    """The records in the run folder, one line of JSON for each."""
    return results.read_text().splitlines() if results.exists() else []


run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
while len(finished()) < 2 and run.poll() is None:
    time.sleep(0.01)
run.kill()
run.wait()
before = finished()
print(f"killed with {len(before)} of 10 structures finished")

# 3. The same command with --resume computes what is missing and nothing else. Its exit status is 3,
# since the model has learned nothing of some of these structures; their records say `domain: red`.
done = subprocess.run([*command, "--resume"], stdout=subprocess.DEVNULL)
print(f"exit status {done.returncode}")
after = finished()
print(
    f"resumed: {len(after)} records, the first {len(before)} unchanged:"
    f" {after[: len(before)] == before}"
)
print(f"in the order of the input: {folder / 'relaxed.extxyz'}")

# The energies are those of part 1 within 1e-5 eV. The last bits depend on which structures were
# computed together; with --reproducible (reproducible=True) they do not.
relaxed = {
    atoms.info["sid"]: atoms.info["geocalc_energy"]
    for atoms in iread(folder / "relaxed.extxyz", ":")
}
print(
    "the same energies both ways:"
    f" {all(abs(relaxed[sid] - energy) < 1e-5 for sid, energy in energies.items())}"
)
