"""README and docs hold true: Python blocks run; commands, options and linked files exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from geocalc.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language, in order."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL
    )


PYTHON = [(page.name, block) for page in PAGES for block in blocks(page, "python")]


def test_the_readme_shows_python_and_shell():
    assert blocks(PAGES[0], "python"), "README.md has no ```python block"
    assert blocks(PAGES[0], "bash"), "README.md has no ```bash block"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_a_python_block_runs_from_the_checkout(number, tmp_path):
    page, block = PYTHON[number]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"a python block of {page} failed:\n{block}\n{done.stderr}"
    assert done.stdout.strip(), f"a python block of {page} prints nothing:\n{block}"


def commands(page: Path) -> list[tuple[str, str]]:
    """Every `geocalc VERB ...` of a page, as verb and rest of the line."""
    lines = [line.split("#")[0] for block in blocks(page, "bash") for line in block.splitlines()]
    spans = re.findall(r"`(geocalc [^`\n]+)`", page.read_text())
    return [
        found
        for line in [*lines, *spans]
        for found in re.findall(r"\bgeocalc ([a-z]+)\b([^&|;]*)", line)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    for verb, rest in commands(page):
        command = main.get_command(None, verb)
        assert command is not None, f"{page.name}: there is no command `geocalc {verb}`"
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = set(re.findall(r"--[a-z-]+", rest)) - known
        assert not unknown, f"{page.name}: `geocalc {verb}` has no {', '.join(sorted(unknown))}"


def test_the_readme_names_commands():
    assert {verb for verb, _ in commands(PAGES[0])} >= {"relax", "predict", "train", "models"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to missing files: {', '.join(missing)}"
