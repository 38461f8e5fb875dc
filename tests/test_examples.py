"""The examples run as a reader would run them, and print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, folder: Path) -> str:
    """Standard output of an example, run in an empty folder with no models but the shipped ones."""
    surroundings = {k: v for k, v in os.environ.items() if k != "GEOCALC_MODELS"}
    # torch makes a folder for compiled code as soon as it is imported
    compiled = str(folder.parent / "torchinductor")
    own = {"XDG_DATA_HOME": str(folder / "home"), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        cwd=folder,
        env=surroundings | own | {"TORCHINDUCTOR_CACHE_DIR": compiled},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{name} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_first_energy(tmp_path):
    said = run("01_first_energy.py", tmp_path)
    assert "of which adsorbate: CH, fixed: " in said
    assert re.search(r"-?\d+\.\d{3} eV, an adsorption energy", said)
    expected, found = map(float, re.findall(r"(?:expected|found) (-?\d+\.\d+) eV", said))
    assert expected < 0
    assert found == pytest.approx(expected, rel=0.2, abs=2e-5)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_relaxing_adslabs(tmp_path):
    said = run("02_relax_adslab.py", tmp_path)
    rows = [line.split() for line in said.splitlines() if " CONVERGED " in line]
    assert len(rows) == 4
    assert all(0 < float(moved) < 3 for *_, moved, _, _ in rows)
    assert "fixed atoms are where they were: True" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_your_own(tmp_path):
    said = run("03_train_your_own.py", tmp_path)
    assert "CONVERGED after" in said
    error, null = (
        float(re.search(pattern, said)[1])
        for pattern in (r"force MAE (\d\.\d+)", r"no force at all: (\d\.\d+)")
    )
    assert error < 0.6 * null
    own, reference = map(
        float,
        re.search(r"relaxed energy: (\S+) eV from the model, (\S+) eV from EMT", said).groups(),
    )
    assert own == pytest.approx(reference, abs=0.3)


@pytest.mark.slow
def test_relaxing_many(tmp_path):
    said = run("04_relax_many.py", tmp_path)
    rows = [line for line in said.splitlines() if line.startswith("#")]
    assert sorted(line.split()[0] for line in rows) == ["#0", "#1", "#2", "#3"]
    assert all(" CONVERGED " in line for line in rows)
    before = int(re.search(r"killed with (\d+) of 10", said)[1])
    assert 2 <= before <= 10
    assert f"resumed: 10 records, the first {before} unchanged: True" in said
    assert "the same energies both ways: True" in said


def test_every_example_is_run_here():
    named = set(re.findall(r"run\(\"(\d\d_\w+\.py)\"", Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} == named
