"""The wheel, built from the checkout and from the sdist: what is inside, and that it finds its
models.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers.models import write_model

pytestmark = [pytest.mark.slow, pytest.mark.extra("hatchling")]

ROOT = Path(__file__).parents[2]
SOURCES = (
    "geocalc",
    "models",
    "tests",
    "examples",
    "workflows",
    "pyproject.toml",
    ".gitignore",
    "README.md",
    "LICENSE",
)
USE = """
import json
from ase.build import molecule
import geocalc
from geocalc.potentials.registry import CARD, shipped_folder
atoms = molecule("H2O")
atoms.calc = geocalc.GeoCalc("tiny-for-packaging", device="cpu")
print(json.dumps({
    "package": geocalc.__file__,
    "shipped": str(shipped_folder()),
    "models": sorted(geocalc.list_models()),
    "energy": atoms.get_potential_energy(),
}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is released, with a small model among the shipped ones and the leftovers that
    work leaves behind.
    """
    root = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.exists():
            shutil.copy(source, root / name)
    write_model(root / "models", "tiny-for-packaging")
    (root / "runs").mkdir()
    (root / "runs" / "state.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def wheels(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of the checkout, and that of the sdist."""
    built = tmp_path_factory.mktemp("dist")
    sdist = build(checkout, "sdist", built)
    with tarfile.open(sdist) as archive:
        archive.extractall(built / "unpacked", filter="data")
    (unpacked,) = (built / "unpacked").iterdir()
    return {
        "checkout": build(checkout, "wheel", built / "a"),
        "sdist": build(unpacked, "wheel", built / "b"),
    }


def build(source: Path, target: str, folder: Path) -> Path:
    """Run the build backend, and give back the one file it wrote."""
    before = set(folder.glob("*"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = set(folder.glob("*")) - before
    return file


def python(code: str, *, path: Path, cwd: Path) -> str:
    """Output of a fresh interpreter that imports geocalc from `path` alone, without network, user
    folder or checkout.
    """
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("GEOCALC", "PYTHON"))
    }
    env |= {"PYTHONPATH": str(path), "XDG_DATA_HOME": str(cwd / "data"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def models_in(folder: Path) -> set[str]:
    return {card.parent.name for card in folder.glob("*/model.yaml")}


@pytest.mark.parametrize("origin", ["checkout", "sdist"])
def test_the_wheel_holds_the_package_with_its_models_and_nothing_else(
    origin: str, wheels: dict[str, Path], checkout: Path
) -> None:
    names = zipfile.ZipFile(wheels[origin]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"geocalc"}
    assert len(tops) == 2
    models = models_in(checkout / "models")
    assert "tiny-for-packaging" in models
    for model in models:
        assert {
            f"geocalc/_models/{model}/model.yaml",
            f"geocalc/_models/{model}/weights.safetensors",
        } <= set(names)
    assert "geocalc/data/elements.csv" in names
    modules = {str(path.relative_to(checkout)) for path in (checkout / "geocalc").rglob("*.py")}
    assert modules <= set(names)
    assert not [
        name
        for name in names
        if "__pycache__" in name or name.endswith((".pyc", ".lmdb", ".pt", ".pkl"))
    ]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_both_ways_of_building_give_the_same_files(wheels: dict[str, Path]) -> None:
    contents = []
    for wheel in wheels.values():
        archive = zipfile.ZipFile(wheel)
        contents.append(
            {
                name: archive.getinfo(name).CRC
                for name in archive.namelist()
                if not name.endswith("/RECORD")
            }
        )
    assert contents[0] == contents[1]


def test_the_wheel_has_a_command_and_asks_for_no_test_tools(wheels: dict[str, Path]) -> None:
    archive = zipfile.ZipFile(wheels["checkout"])
    (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    assert "geocalc = geocalc.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
    needed = [
        line
        for line in archive.read(f"{info}/METADATA").decode().splitlines()
        if line.startswith("Requires-Dist")
    ]
    core = " ".join(line for line in needed if "extra ==" not in line)
    assert "torch<2.14,>=2.8" in core
    assert not any(
        tool in core
        for tool in (
            "pytest",
            "hatchling",
            "ruff",
            "mypy",
            "matplotlib",
            "mendeleev",
            "hydra",
            "scatter",
        )
    )


@pytest.mark.parametrize("layout", ["wheel", "checkout"])
def test_models_are_found_in_both_layouts(
    layout: str, wheels: dict[str, Path], checkout: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = checkout
    if layout == "wheel":
        path = tmp_path / "site"
        zipfile.ZipFile(wheels["checkout"]).extractall(path)
    found = json.loads(python(USE, path=path, cwd=home))
    expected = path / "geocalc" / "_models" if layout == "wheel" else path / "models"
    assert Path(found["package"]) == path / "geocalc" / "__init__.py"
    assert Path(found["shipped"]) == expected
    assert set(found["models"]) == models_in(checkout / "models")
    assert isinstance(found["energy"], float)
