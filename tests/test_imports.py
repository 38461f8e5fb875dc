"""What imports what: the direction of dependencies, and what starting up may not cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import geocalc

PACKAGE = Path(geocalc.__file__).parent
LAYERS = (  # a unit imports from earlier lines only; units that are not named here may import anything but cli, without a cycle
    {"errors"},
    {"elements", "settings", "systems"},
    {"card", "neighbors", "nn"},
    {"frames", "optim", "transforms"},
    {"canonicalizers"},
    {"architectures", "guards", "noise_floor", "warm_start"},
    {"snapshots"},
    {"relaxation"},
    {"potential"},
    {"registry"},
    {"train", "calculator"},
    {"commands"},
    {"cli"},
)
WITHOUT_ASE = set().union(
    *LAYERS[:10],
    {"records", "run_folder", "relax_settings", "testing", "smoothness", "symmetry_errors", "extxyz", "tags", "projectors"},
)
HEAVY = ("torch", "torch_geometric", "pymatgen", "ase", "numpy", "scipy", "matplotlib", "lightning", "pydantic")


def unit_of(path: Path) -> str:
    """`frames` for geocalc/frames/pca.py, `io` for geocalc/io.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run, in functions too; not those under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from statements(node)


def imports() -> dict[str, set[str]]:
    """Modules each unit imports, in full: `from geocalc import io` is `geocalc.io`."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py" or "_models" in path.parts:
            continue
        names = found.setdefault(unit_of(path), set())
        for node in statements(ast.parse(path.read_text())):
            assert not isinstance(node, ast.ImportFrom) or node.level == 0, f"{path}: relative import"
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif node.module == "geocalc":
                names |= {f"geocalc.{alias.name}" for alias in node.names}
            else:
                names.add(str(node.module))
    return found


IMPORTS = imports()
WITHIN = {
    unit: {name.split(".")[1] for name in names if name.startswith("geocalc.")} & set(IMPORTS) - {unit}
    for unit, names in IMPORTS.items()
}


def test_the_layers_name_units_that_exist() -> None:
    assert set().union(*LAYERS) | WITHOUT_ASE <= set(IMPORTS)


def test_dependencies_point_one_way() -> None:
    height = {unit: k for k, layer in enumerate(LAYERS) for unit in layer}
    wrong = [
        (unit, other)
        for unit, others in WITHIN.items()
        for other in others
        if unit in height and other in height and height[other] >= height[unit]
    ]
    assert wrong == []


def test_there_is_no_cycle() -> None:
    assert len(list(TopologicalSorter(WITHIN).static_order())) == len(IMPORTS)


def test_nothing_imports_the_command_line() -> None:
    assert {unit for unit, others in WITHIN.items() if "cli" in others} == {"__main__"}
    assert {unit for unit, others in WITHIN.items() if "commands" in others} <= {"cli"}


def test_optimisers_and_the_relaxation_know_no_network() -> None:
    assert WITHIN["optim"] <= {"errors", "elements", "neighbors", "systems"}
    assert WITHIN["relaxation"] <= {"errors", "systems", "optim", "guards", "noise_floor", "snapshots", "warm_start"}


@pytest.mark.parametrize("unit", sorted(WITHOUT_ASE))
def test_the_core_knows_neither_ase_nor_pymatgen(unit: str) -> None:
    foreign = {name.split(".")[0] for name in IMPORTS[unit]}
    assert not foreign & {"ase", "pymatgen"}


@pytest.mark.parametrize("statement", ["import geocalc; dir(geocalc); geocalc.__version__", "import geocalc.cli"])
def test_starting_up_costs_no_heavy_import(statement: str) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    assert not heavy(run(["-c", code]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["relax", "--help"], ["train", "--help"]])
def test_help_costs_no_heavy_import(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['geocalc', *{arguments}]\n"
        "from geocalc.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print(*sys.modules)"
    )
    output = run(["-c", code])
    assert "geocalc" in output
    assert not heavy(output)


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
