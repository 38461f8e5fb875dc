"""What the README shows works: its Python blocks run, and the commands it names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from geocalc.cli.main import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL
    )


PYTHON = blocks("python")


def test_there_are_blocks_to_test():
    assert PYTHON, "README.md has no ```python block; its first screen should show one"
    assert blocks("bash"), (
        "README.md has no ```bash block; it should show how to install, run and test"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_a_python_block_runs_from_the_checkout(number, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PYTHON[number]],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (
        f"python block {number} of README.md failed:\n{PYTHON[number]}\n{done.stderr}"
    )
    assert done.stdout.strip(), f"python block {number} of README.md prints nothing"


def test_every_command_it_names_exists():
    text = README.read_text()
    named = set(
        re.findall(
            r"\bgeocalc ([a-z]+)\b",
            "\n".join(blocks("bash")) + "\n".join(re.findall(r"`[^`\n]+`", text)),
        )
    )
    assert named, "README.md names no geocalc command in its ```bash blocks or tables"
    unknown = named - set(main.commands)
    assert not unknown, f"README.md names commands that do not exist: {', '.join(sorted(unknown))}"


def test_every_option_it_names_exists():
    lines = [line for block in blocks("bash") for line in block.splitlines() if "geocalc " in line]
    lines += [span for span in re.findall(r"`(geocalc [^`\n]+)`", README.read_text())]
    for line in lines:
        for verb, rest in re.findall(r"\bgeocalc ([a-z]+)([^&|;]*)", line):
            known = {
                option for parameter in main.commands[verb].params for option in parameter.opts
            }
            unknown = set(re.findall(r"--[a-z-]+", rest)) - known
            assert not unknown, f"README.md: `geocalc {verb}` has no {', '.join(sorted(unknown))}"


def test_every_file_it_links_to_exists():
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", README.read_text())
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing, f"README.md links to what is not there: {', '.join(missing)}"
