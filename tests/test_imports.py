"""The direction of imports between packages and files, and what start-up may not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import geocalc

PACKAGE = Path(geocalc.__file__).parent
# A package or module imports from earlier lines and from itself only.
LAYERS = (
    {"errors", "lazy", "version"},
    {"core"},
    {"graphs", "nn"},
    {"structures", "frames", "optim"},
    {"relaxation", "data", "architectures"},
    {"potentials"},
    {"evaluation", "runs", "calculator"},
    {"train", "api", "symmetry"},
    {"properties"},
    {"tasks"},
    {"cli"},
)
ABOVE = {"cli", "api", "properties", "symmetry", "tasks"}  # imported by the top layers alone
WITHOUT_ASE = {"errors", "version", "graphs", "nn", "frames", "optim", "architectures"}
HEAVY = (
    "torch",
    "torch_geometric",
    "pymatgen",
    "ase",
    "numpy",
    "scipy",
    "matplotlib",
    "lightning",
    "pydantic",
)
# options of these commands are made from settings classes, which are pydantic models; it costs
# about 0.3 s, once, and nothing of it is needed to list the commands
WITH_SETTINGS = ("relax", "predict", "evaluate", "train")


def name_of(path: Path) -> str:
    """`frames.pca` for geocalc/frames/pca.py, `frames` for geocalc/frames/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run, in functions too; not those under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from statements(node)


FILES = {
    name_of(path): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.name != "__init__.py"
}
FILES = {name: path for name, path in FILES.items() if not name.startswith("_models")}


def imported(path: Path) -> set[str]:
    """Everything that a file imports, in full: `from geocalc.core import units` is
    `geocalc.core.units`.
    """
    found = set()
    for node in statements(ast.parse(path.read_text())):
        assert not isinstance(node, ast.ImportFrom) or node.level == 0, f"{path}: relative import"
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        module = str(node.module)
        inside = {alias.name: f"{module}.{alias.name}" for alias in node.names}
        found |= {
            full if full.removeprefix("geocalc.") in FILES else module for full in inside.values()
        }
    return found


@cache
def imports() -> dict[str, set[str]]:
    """Everything that each file imports."""
    return {name: imported(path) for name, path in FILES.items()}


@cache
def within() -> dict[str, set[str]]:
    """Files of the package that each file imports."""
    return {
        name: {other.removeprefix("geocalc.") for other in names if other.startswith("geocalc.")}
        & set(FILES)
        for name, names in imports().items()
    }


def package(name: str) -> str:
    """The package of a file, or the module itself where it lies at the top."""
    return name.split(".")[0]


def test_imports_run_downwards() -> None:
    floor = {unit: k for k, layer in enumerate(LAYERS) for unit in layer}
    assert {package(name) for name in FILES} - set(floor) == {"__main__", "testing"}
    wrong = [
        f"{name} imports {other}"
        for name, others in within().items()
        for other in others
        if package(name) != package(other)
        and package(name) in floor
        and floor[package(other)] >= floor[package(name)]
    ]
    assert wrong == []


def test_files_import_each_other_in_no_circle() -> None:
    assert len(list(TopologicalSorter(within()).static_order())) == len(FILES)


@pytest.mark.parametrize("unit", sorted(ABOVE))
def test_only_the_top_layers_import_the_top(unit: str) -> None:
    users = {
        package(name)
        for name, others in within().items()
        if unit in {package(other) for other in others}
    }
    assert users <= {unit, "tasks", "cli", "__main__"}


@pytest.mark.parametrize("unit", sorted(WITHOUT_ASE))
def test_networks_and_optimizers_know_neither_ase_nor_pymatgen(unit: str) -> None:
    foreign = {
        other.split(".")[0]
        for name, others in imports().items()
        if package(name) == unit
        for other in others
    }
    assert not foreign & {"ase", "pymatgen"}


@pytest.mark.parametrize(
    "statement", ["import geocalc; dir(geocalc); geocalc.__version__", "import geocalc.cli.main"]
)
def test_starting_up_costs_no_heavy_import(statement: str) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    assert not heavy(run(["-c", code]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in (*WITH_SETTINGS, "register", "models", "symmetry")),
    ],
    ids=" ".join,
)
def test_help_costs_no_heavy_import(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['geocalc', *{arguments}]\n"
        "from geocalc.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print(*sys.modules)"
    )
    output = run(["-c", code])
    assert "geocalc" in output
    allowed = {"pydantic"} if arguments[0] in WITH_SETTINGS else set()
    assert not heavy(output) - allowed


def test_every_public_name_is_there() -> None:
    assert set(geocalc.__all__) <= set(dir(geocalc))
    for name in geocalc.__all__:
        assert getattr(geocalc, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = geocalc.Nothing


def run(arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def heavy(output: str) -> set[str]:
    """Which of the heavy packages the last line of the output names."""
    return {name.split(".")[0] for name in output.splitlines()[-1].split()} & set(HEAVY)


def test_the_default_model_is_opened_without_the_compiler_of_torch() -> None:
    code = (
        "import sys, geocalc; from geocalc.runs.settings import POTENTIAL;"
        " geocalc.load_model(POTENTIAL); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
