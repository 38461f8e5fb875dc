"""Public names: each is defined in one module, and packages hand them on without loading it."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import geocalc
from geocalc.lazy import public_names

PACKAGE = Path(geocalc.__file__).parent
MODULES = {
    ".".join(("geocalc", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
INITS = sorted(PACKAGE.rglob("__init__.py"))
# packages of the command line and of one architecture, which hand on nothing
WITHOUT_NAMES = {"geocalc.cli", "geocalc.architectures.regnn", "geocalc.cli.commands"}
HEAVY = {"torch", "torch_geometric", "pymatgen", "ase", "numpy", "scipy", "pydantic"}
ROOT = Path(__file__).parents[1]
WORD = re.compile(r"\w+")
IMPORT_OR_COMMENT = re.compile(r"(?m)^\s*(from|import) .*$|#.*$")
COMMANDS = "geocalc.cli"  # a command is called what its function is called


def package_of(init: Path) -> str:
    return ".".join(("geocalc", *init.parent.relative_to(PACKAGE).parts))


def table_of(init: Path) -> dict[str, str]:
    """The public names of a package and the modules that define them, as written."""
    for node in ast.parse(init.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            return {
                name: f"{package_of(init)}.{home}"
                for name, home in ast.literal_eval(node.value.args[1]).items()
            }
    return {}


TABLES = {package_of(init): table_of(init) for init in INITS}


def definitions(path: Path) -> Iterator[tuple[str, bool]]:
    """Names that a module defines, and whether each is a class or a function."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, True
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (
                    (name.id, False) for name in ast.walk(target) if isinstance(name, ast.Name)
                )


@pytest.mark.parametrize("init", INITS, ids=package_of)
def test_a_package_lists_its_public_names_and_nothing_else(init: Path) -> None:
    docstring, *statements = ast.parse(init.read_text()).body
    assert isinstance(docstring, ast.Expr)
    names = list(table_of(init))
    if package_of(init) in WITHOUT_NAMES:
        assert not statements
        return
    assert names
    assert names == sorted(names)
    assignments = [
        node for node in statements if not isinstance(node, ast.Import | ast.ImportFrom | ast.If)
    ]
    assert len(assignments) == 1


@pytest.mark.parametrize("package", sorted(set(TABLES) - WITHOUT_NAMES))
def test_public_names_are_where_the_table_says(package: str) -> None:
    module = importlib.import_module(package)
    assert set(TABLES[package]) == set(module.__all__) <= set(dir(module))
    for name, home in TABLES[package].items():
        assert name in {defined for defined, _ in definitions(MODULES[home])}, f"{home}.{name}"
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
        # once it is loaded, a module takes the place of a public name that is called the same
        assert f"{package}.{name}" not in {*MODULES, *TABLES}


def test_a_public_name_has_one_home() -> None:
    homes = defaultdict(set)
    for table in TABLES.values():
        for name, home in table.items():
            homes[name].add(home)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_a_class_or_function_is_defined_once() -> None:
    owners = defaultdict(set)
    for module, path in MODULES.items():
        for name, called in definitions(path):
            if called and not name.startswith("_") and not module.startswith(COMMANDS):
                owners[name].add(module)
    assert {name: found for name, found in owners.items() if len(found) > 1} == {}


def test_a_class_or_function_is_used_by_more_than_tests() -> None:
    """What nobody calls goes; the laws of `geocalc.testing` are for the tests of users."""
    code = [
        path.read_text()
        for folder in (PACKAGE, ROOT / "workflows", ROOT / "examples")
        for path in folder.rglob("*.py")
    ]
    words = Counter(word for text in code for word in WORD.findall(IMPORT_OR_COMMENT.sub("", text)))
    unused = {
        f"{module}.{name}"
        for module, path in MODULES.items()
        for name, called in definitions(path)
        if called and words[name] < 2 and module != "geocalc.testing"
    }
    assert unused == set()


def test_names_are_suggested_in_one_place() -> None:
    suggesting = {module for module, path in MODULES.items() if "difflib" in path.read_text()}
    assert suggesting == {"geocalc.core.nearest"}


def test_editors_see_the_public_names_of_geocalc() -> None:
    static = {
        alias.name: f"geocalc.{home.removeprefix('geocalc.')}"
        for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom) and (home := str(statement.module))
        for alias in statement.names
    }
    assert static == TABLES["geocalc"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_import_from_modules_not_from_packages(module: str) -> None:
    taken = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in TABLES
        for alias in node.names
        if f"{node.module}.{alias.name}" not in MODULES
    ]
    assert taken == []


def test_packages_cost_no_heavy_import() -> None:
    code = (
        "import sys, importlib\n"
        f"for package in {sorted(TABLES)}: dir(importlib.import_module(package))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & HEAVY


def test_a_missing_name_is_an_attribute_error() -> None:
    names, find, listed = public_names("geocalc.core", {"Systems": "systems"})
    assert names == listed() == ["Systems"]
    assert find("Systems") is geocalc.Systems
    with pytest.raises(AttributeError, match=r"module 'geocalc\.core' has no attribute 'Nothing'"):
        find("Nothing")
