"""Workflows, examples and pages import public names of geocalc and nothing else."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import geocalc

ROOT = Path(__file__).parents[2]
PACKAGE = Path(geocalc.__file__).parent
# modules that are public as a whole
MODULES = {"geocalc.calculator", "geocalc.errors", "geocalc.testing"}
PACKAGES = {
    ".".join(("geocalc", *init.parent.relative_to(PACKAGE).parts))
    for init in PACKAGE.rglob("__init__.py")
} - {"geocalc.cli", "geocalc.architectures.regnn"}
SCRIPTS = sorted([*(ROOT / "workflows").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
PAGES = sorted(
    page
    for page in [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("workflows/**/*.md"),
    ]
    if "```python" in page.read_text()
)


def not_public(source: str) -> Iterator[str]:
    """Names of geocalc that a piece of code takes from somewhere else than the public API."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                alias.name
                for alias in node.names
                if alias.name.split(".")[0] == "geocalc"
                and alias.name not in {"geocalc", *MODULES, *PACKAGES}
            )
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "geocalc":
            module = str(node.module)
            names = [alias.name for alias in node.names]
            if module in PACKAGES:
                known = {*importlib.import_module(module).__all__, "__version__"}
            elif module in MODULES:
                known = {name for name in names if not name.startswith("_")}
            else:
                known = set()
            yield from (f"{module}.{name}" for name in names if name not in known)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "geocalc"
            and node.attr not in {*geocalc.__all__, "__version__", "__file__"}
        ):
            yield f"geocalc.{node.attr}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_use_the_public_api(path: Path) -> None:
    assert list(not_public(path.read_text())) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_on_pages_uses_the_public_api(path: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL):
        assert list(not_public(block)) == []


def test_a_private_import_is_found() -> None:
    source = (
        "import geocalc\nimport geocalc.core.systems\nfrom geocalc.core import Systems, nothing\n"
        "from geocalc.core.systems import join\nfrom geocalc.errors import InputError\n"
        "geocalc.relax, geocalc.api\n"
    )
    assert set(not_public(source)) == {
        "geocalc.core.systems",
        "geocalc.core.nothing",
        "geocalc.core.systems.join",
        "geocalc.api",
    }
