"""The study of relaxed weights on adslabs runs from its recipes to its tables, on made-up
relaxations.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from helpers.training import relaxations
from helpers.workflow_modules import workflow_modules
from PIL import Image

from geocalc.potentials.registry import shipped_folder

SHORT = tuple(
    f"training.{name}"
    for name in ("steps=2", "evaluate_every=2", "checkpoint_every=1", "log_every=1", "batch_size=2")
)


@pytest.fixture(scope="module")
def study() -> Iterator[dict[str, ModuleType]]:
    with workflow_modules("symmetry-breaking", ("adslabs", "adslabs_report", "longer")) as found:
        yield found


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: dict[str, ModuleType]) -> Path:
    """24 relaxations of oxygen on copper where the study looks for its data."""
    frames = relaxations(24)
    last = {atoms.info["sid"]: atoms.calc.results["energy"] for atoms in frames}
    for atoms in frames:
        energy, forces = (atoms.calc.results[name] for name in ("energy", "forces"))
        atoms.info = {
            "sid": atoms.info["sid"],
            "converged": True,
            "e_ads": -1.0,
            "e_relaxed": last[atoms.info["sid"]],
        }
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    path = tmp_path / "data" / study["adslabs"].DATA
    path.parent.mkdir(parents=True)
    write(tmp_path / "plain.extxyz", frames)
    path.write_bytes(gzip.compress((tmp_path / "plain.extxyz").read_bytes()))
    monkeypatch.setenv("GEOCALC_DATA", str(tmp_path / "data"))
    study["adslabs"].relaxations.cache_clear()
    return tmp_path


@pytest.mark.slow
def test_the_study_on_made_up_relaxations(study: dict[str, ModuleType], data: Path) -> None:
    adslabs, report = study["adslabs"], study["adslabs_report"]
    out = data / "runs"
    for one in adslabs.plan(out, (*adslabs.NETWORKS, adslabs.TURNED), (4, 8), (0,), SHORT):
        adslabs.fit(one, out)
    judged = report.read_judged(out)
    assert [(one.network, one.size) for one in judged] == [
        (name, size) for name in ("faenet", "equivariant", "relaxed", "turned") for size in (4, 8)
    ]
    assert all(
        one.steps == 2 and one.energy_mae > 0 and one.force_mae > 0 and one.seconds > 0
        for one in judged
    )
    assert [len(one.theta) for one in judged[::2]] == [0, 2, 2, 2]
    nothing = report.read_no_force(out)
    assert 0 < nothing.straight < 10
    assert nothing.askew != nothing.straight
    table = report.error_table(judged, nothing).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == [
        "| FAENet + SFA",
        "| equivariant",
        "| relaxed",
        "| relaxed, slabs askew",
        "| predicting no force",
        "| predicting no force, tilted slabs",
    ]
    assert table[-2].count(f"{1000 * nothing.straight:.1f}") == 2
    assert f"{1000 * judged[0].energy_mae:.1f}" in table[2]
    assert len(report.difference_table(judged).splitlines()) == 2 + 4
    assert len(report.theta_table(judged).splitlines()) == 2 + 4 * 2
    report.draw(judged, nothing, data / "errors.png")
    with Image.open(data / "errors.png") as picture:
        assert min(picture.size) > 300


def test_no_relaxation_is_on_two_sides(study: dict[str, ModuleType], data: Path) -> None:
    small, large, other = (
        study["adslabs"].parts(size, seed) for size, seed in ((4, 0), (8, 0), (4, 1))
    )
    for part in ("test", "validate"):
        names = {name for name, own in small.items() if own == part}
        assert names
        assert names == {name for name, own in other.items() if own == part}
    learned = [
        {name for name, own in chosen.items() if own == "learn"} for chosen in (small, large, other)
    ]
    assert [len(names) for names in learned] == [4, 8, 4]
    assert learned[0] < learned[1]
    assert learned[0] != learned[2]


def test_askew_slabs_are_the_same_slabs(study: dict[str, ModuleType], data: Path) -> None:
    adslabs = study["adslabs"]
    name = next(iter(adslabs.relaxations()))
    plain, askew = (
        adslabs._frame(adslabs.relaxations()[name][0], "learn", turn)
        for turn in (None, adslabs.TURN)
    )
    assert askew.get_all_distances(mic=True) == pytest.approx(
        plain.get_all_distances(mic=True), abs=1e-9
    )
    before, after = (atoms.calc.results["forces"] for atoms in (plain, askew))
    assert after == pytest.approx(before @ adslabs.TURN.T)
    assert np.linalg.norm(adslabs.normal()) == pytest.approx(1.0)
    area = np.cross(askew.cell[0], askew.cell[1])
    assert area / np.linalg.norm(area) == pytest.approx(adslabs.normal(), abs=1e-9)


def test_lengths_inside_what_the_surface_allows_are_told_apart(
    study: dict[str, ModuleType],
) -> None:
    report = study["adslabs_report"]
    axis = np.array([1.0, 2.0, 2.0]) / 3
    assert report.turn_to(axis) @ (0, 0, 1) == pytest.approx(axis)
    theta = {"0e": [1.0], "1o": (2 * axis).tolist(), "1e": [0.0, 0.0, 0.0]}
    assert report.allowed_share(theta, axis) == pytest.approx(1.0)
    theta["1e"] = axis.tolist()  # mirrors that hold a normal reverse what turns about it
    assert report.allowed_share(theta, axis) == pytest.approx(0.8)
    theta["1o"] = report.turn_to(axis)[:, 0].tolist()
    assert report.allowed_share(theta, axis) == pytest.approx(0.0, abs=1e-12)


def test_models_beside_each_other(study: dict[str, ModuleType], tmp_path: Path) -> None:
    longer = study["longer"]
    assert longer.read_longer(tmp_path) == []
    schnet = longer.carded("schnet", shipped_folder() / "schnet")
    assert schnet.theta == []
    head, _, line = (
        row.strip("| ").split(" | ") for row in longer.model_table([schnet]).splitlines()
    )
    told = dict(zip(head, line, strict=True))
    pure, _ = schnet.measured["single_points"].values()
    assert told["model"] == "schnet"
    assert told["force (meV/Å)"] == f"{1000 * pure['force_mae']:.1f}"
    theta = {
        "0e": [2.0],
        "0o": [0.0],
        "1e": [0.0] * 3,
        "1o": [0.0, 0.0, -1.0],
        "2e": [0.0] * 5,
        "2o": [0.0] * 5,
    }
    relaxed = longer.Carded("regnn", 1, schnet.measured, [theta])
    assert longer.normal_table([schnet, relaxed]).splitlines()[2] == (
        "| 1 | 0.000 | 0.000 | 0.500 | 0.000 | 0.000 | 1.00 | 180° | – |"
    )
