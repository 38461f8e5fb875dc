"""Relaxed weights learn the right symmetry breaking: what group theory says they may become, in
experiments whose answers are known.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from e3nn import o3
from helpers.workflow_modules import workflow_modules
from PIL import Image
from torch import Tensor

from geocalc.nn.relaxed_weights import Theta, thetas

STUDY = Path(__file__).parents[2] / "workflows" / "symmetry-breaking"
MODULES = (
    "adslabs",
    "adslabs_report",
    "longer",
    "broken",
    "record",
    "network",
    "descent",
    "shapes",
    "field",
    "phases",
    "figures",
    "page",
    "run",
)
DATA = os.environ.get("GEOCALC_DATA")
FORBIDDEN = 1e-5  # of the relaxed weights of a layer
Modules = dict[str, ModuleType]


@pytest.fixture(scope="module")
def study() -> Iterator[Modules]:
    """Modules of the study."""
    with workflow_modules("symmetry-breaking", MODULES) as found:
        yield found


@pytest.fixture(scope="module")
def prism(study: Modules) -> Any:
    """A relaxed network that has learned the prism."""
    return study["shapes"].fit_shape(shape(study, "prism"), relaxed=True, seed=3)


def shape(study: Modules, name: str) -> Any:
    """A shape by its name."""
    (found,) = (one for one in study["shapes"].shapes() if one.name == name)
    return found


def signed_permutations(keep_z: bool) -> Tensor:
    """The symmetries of a cube, (48, 3, 3), or those that do not mix z with x and y, (16, 3, 3), by
    an own count.
    """
    found = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        if not keep_z or order[2] == 2:
            found.append(
                torch.eye(3, dtype=torch.float64)[list(order)]
                * torch.tensor(signs, dtype=torch.float64)
            )
    return torch.stack(found)


def invariant(matrices: Tensor, irrep: o3.Irrep) -> Tensor:
    """The projector onto what matrices leave as it is, by e3nn's own turns."""
    return irrep.D_from_matrix(matrices).mean(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "keep_z", "dimension_of_4e"), [("cube", False, 1), ("prism", True, 2)]
)
def test_theta_is_in_the_subspace_that_symmetry_allows(
    study: Modules, prism: Any, name: str, keep_z: bool, dimension_of_4e: int
) -> None:
    group = signed_permutations(keep_z)
    assert len(group) == (16 if keep_z else 48)
    fit = (
        prism
        if name == "prism"
        else study["shapes"].fit_shape(shape(study, name), relaxed=True, seed=3)
    )
    assert fit.loss < 1e-18
    for part in fit.parts:
        space = invariant(group, o3.Irrep(part.degree, part.parity))
        own = torch.tensor(part.values, dtype=torch.float64)
        layer = math.sqrt(sum(other.length**2 for other in fit.parts if other.layer == part.layer))
        assert part.dimension == round(float(space.trace()))
        assert float((own - space @ own).norm()) < FORBIDDEN * layer
        if part.irrep == "4e":
            assert part.dimension == dimension_of_4e
            assert part.length > 1e-3  # so that the ratio below says something
    for part in fit.parts:
        if part.irrep == "4e" and name == "cube":
            assert part.values[8] / part.values[4] == pytest.approx(math.sqrt(5 / 7), rel=1e-9)
        if part.irrep == "2e" and name == "prism":
            assert part.values[4] / part.values[2] == pytest.approx(-math.sqrt(3), rel=1e-9)
    assert fit.recovered == ("D4h (4/mmm)" if name == "prism" else "Oh (m-3m)")


def gradients(study: Modules, name: str) -> list[tuple[str, int, Tensor, Tensor]]:
    """Irrep, dimension of what the task allows, gradient of theta at the start, and the projector;
    of all layers.
    """
    task = study["shapes"].make_task(shape(study, name))
    network = study["shapes"].make_network(task.cluster, 2, 4, 5)
    (network(task.cluster) - task.target).square().mean().backward()
    group = torch.from_numpy(task.after)
    found = []
    for _, theta in thetas(network):
        for block in theta.blocks:
            space = invariant(group, o3.Irrep(block.degree, block.parity))
            found.append(
                (
                    block.name,
                    round(float(space.trace())),
                    theta.values.grad[block.start : block.stop],
                    space,
                )
            )
    return found


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("cube", {"0e", "4e"}), ("prism", {"0e", "2e", "4e"}), ("brick", {"0e", "2e", "3e", "4e"})],
)
def test_nothing_pulls_at_what_the_data_do_not_break(
    study: Modules, name: str, allowed: set[str]
) -> None:
    pulled = set()
    for irrep, dimension, gradient, space in gradients(study, name):
        if dimension == 0:
            assert gradient.abs().max() < 1e-12, irrep
        else:
            # e3nn's turns by Euler angles are good to seven digits
            assert (gradient - space @ gradient).abs().max() < 1e-6
            pulled |= {irrep} if gradient.abs().max() > 1e-6 else set()
    assert pulled <= allowed
    assert {"0e", "4e"} <= pulled


@pytest.mark.slow
def test_a_turned_task_turns_theta(study: Modules, prism: Any) -> None:
    turned = study["shapes"].fit_shape(shape(study, "turned prism"), relaxed=True, seed=3)
    turn = torch.from_numpy(study["shapes"].TURN)
    assert turned.recovered == prism.recovered
    for before, after in zip(prism.parts, turned.parts, strict=True):
        there = o3.Irrep(before.degree, before.parity).D_from_matrix(turn) @ torch.tensor(
            before.values, dtype=torch.float64
        )
        assert torch.allclose(
            there, torch.tensor(after.values, dtype=torch.float64), atol=2e-6, rtol=0
        )
        if before.irrep == "2e" and before.length > 0.1:
            # the turn is no symmetry of the prism
            assert float((there - torch.tensor(before.values)).norm()) > 0.1


def test_without_relaxed_weights_the_prism_is_out_of_reach(study: Modules) -> None:
    """The best answer is the mean of the target over the cube's symmetries, here from the
    invariants of a corner: a ray each.
    """
    fit = study["shapes"].fit_shape(shape(study, "prism"), relaxed=False, seed=3)
    cube = study["shapes"].CUBE
    target = study["shapes"].peaks(shape(study, "prism").corners)
    rays = o3.spherical_harmonics(
        study["shapes"].FEATURES, cube, normalize=True, normalization="component"
    )
    best = torch.zeros_like(target)
    for place in study["shapes"].FEATURES.slices():
        ray = rays[:, place]
        best[:, place] = (target[:, place] * ray).sum() / ray.square().sum() * ray
    plateau = float((target - best).square().mean())
    assert plateau > 0.05
    assert fit.floor == pytest.approx(plateau, rel=1e-12)
    assert fit.loss == pytest.approx(plateau, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [("crossed along axes", 0), ("crossed", 1), ("free", 2)])
def test_the_vector_is_e_and_the_pseudovector_is_b(study: Modules, kind: str, seed: int) -> None:
    fit = study["field"].fit_field(kind, layers=1, relaxed=True, seed=seed, steps=250)
    assert fit.loss < 0.01 * fit.target
    assert study["field"].angle(fit.parts, 1, "1o", fit.electric) < 5
    assert study["field"].angle(fit.parts, 1, "1e", fit.magnetic) < 5


def test_without_relaxed_weights_fields_are_out_of_reach(study: Modules) -> None:
    fit = study["field"].fit_field("crossed along axes", layers=1, relaxed=False, seed=0, steps=100)
    assert fit.loss > 0.5 * fit.target


def test_the_simulator_keeps_the_energy_in_the_field_and_its_start(study: Modules) -> None:
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    copy, field = start.clone(), torch.tensor([0.3, 1.0, -0.2], dtype=torch.float64)
    path = study["field"].trajectories(start, torch.zeros(3, dtype=torch.float64), field, 50)
    assert torch.equal(start, copy)
    assert torch.equal(path[:, 0], start)
    assert torch.allclose(
        path.norm(dim=2), start.norm(dim=1)[:, None].expand(-1, 50), rtol=1e-12, atol=0
    )
    along = path @ field / field.norm()
    turned = math.degrees(float(along[0, 0] - along[0, 1]))
    assert turned == pytest.approx(0, abs=1e-9)  # what is along B stays
    exact = 2 * math.atan(0.5 * study["field"].DT * float(field.norm()))
    aside = path - along[..., None] * field / field.norm()
    cosine = (aside[:, 0] * aside[:, 1]).sum(1) / aside[:, 0].norm(dim=1) / aside[:, 1].norm(dim=1)
    assert torch.allclose(cosine, torch.full_like(cosine, math.cos(exact)), atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(
    DATA is None, reason="GEOCALC_DATA, the folder of published data sets, is not set"
)
@pytest.mark.parametrize(
    ("name", "group", "axis"),
    [("TETRAGONAL", "4mm", (0, 0, 1)), ("ORTHORHOMBIC", "mm2", (1, 1, 0))],
)
def test_the_phases_of_barium_titanate(
    study: Modules, name: str, group: str, axis: tuple[int, int, int]
) -> None:
    phase = getattr(study["phases"], name)
    fit = study["phases"].fit_phase(phase, Path(DATA), relaxed=True, seed=0, steps=6)
    assert group in fit.group
    assert {"4mm": "P4mm (99)", "mm2": "Amm2 (38)"}[group] in fit.group
    assert fit.loss < 0.5 * fit.floor
    assert group in fit.recovered
    polar = [part for part in fit.parts if part.irrep == "1o" and part.length > 1e-3]
    assert polar
    for part in polar:
        direction = np.array(part.values) / part.length
        assert abs(direction @ axis) / np.linalg.norm(axis) == pytest.approx(1, abs=1e-6)
    assert max(part.forbidden for part in fit.parts) < FORBIDDEN


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(
    DATA is None, reason="GEOCALC_DATA, the folder of published data sets, is not set"
)
def test_no_equivariant_network_moves_the_barium_atom(study: Modules) -> None:
    task = study["phases"].transition(study["phases"].TETRAGONAL, Path(DATA))
    fit = study["phases"].fit_phase(
        study["phases"].TETRAGONAL, Path(DATA), relaxed=False, seed=0, steps=4
    )
    assert fit.loss >= task.floor * (1 - 1e-9)
    assert task.floor > 0.5 * fit.target


@pytest.mark.slow
def test_the_study_goes_through(
    study: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps of each experiment; the phases are made up."""
    monkeypatch.setattr(study["run"], "shapes", lambda: study["shapes"].shapes()[:2])
    monkeypatch.setattr(study["run"], "TETRAGONAL", study["phases"].CUBIC)
    monkeypatch.setattr(study["run"], "ORTHORHOMBIC", study["phases"].CUBIC)
    monkeypatch.setattr(
        study["run"],
        "fit_phase",
        lambda *_, relaxed, seed, steps: fake_phase(study, relaxed, seed, steps),
    )
    shutil.copy(STUDY / "README.md", tmp_path / "README.md")
    options = ["--seeds", "0", "--out", str(tmp_path / "runs")]
    early = CliRunner().invoke(study["run"].main, ["report", *options, "--to", str(tmp_path)])
    assert early.exit_code == 1
    assert "run shapes with the same options first" in early.output
    for command in (["shapes"], ["field"], ["phases"]):
        for _ in range(2):
            done = CliRunner().invoke(
                study["run"].main, [*command, *options, "--steps", "2"], catch_exceptions=False
            )
            assert done.exit_code == 0, done.output
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    done = CliRunner().invoke(
        study["run"].main, ["report", *options, "--to", str(tmp_path)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert [(row["name"], row["network"]) for row in numbers["shapes"]] == [
        (name, network) for name in ("cube", "prism") for network in ("equivariant", "relaxed")
    ]
    page = (tmp_path / "README.md").read_text()
    told = [f"{numbers['shapes'][2][name]:.6f}" for name in ("target", "loss", "floor")]
    assert f"| prism | D4h | {' | '.join(told)} |" in page
    for name in ("shapes.png", "field.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200


def fake_phase(study: Modules, relaxed: bool, seed: int, steps: int) -> Any:
    """The cube instead of a crystal."""
    return study["shapes"].fit_shape(shape(study, "cube"), relaxed=relaxed, seed=seed, steps=steps)


def test_a_symmetry_that_the_points_do_not_have_is_refused(study: Modules) -> None:
    points = study["shapes"].CUBE.numpy()
    with pytest.raises(ValueError, match="does not map the points onto themselves"):
        study["broken"].sources(points, study["shapes"].TURN)


def test_theta_begins_with_every_symmetry(study: Modules) -> None:
    task = study["shapes"].make_task(shape(study, "prism"))
    network = study["shapes"].make_network(task.cluster, 2, 4, 0)
    parts = study["broken"].read_theta(network, task.after)
    assert study["broken"].recovered(parts, task.before) == "Oh (m-3m)"
    theta = next(part for part in network.modules() if isinstance(part, Theta))
    with torch.no_grad():
        theta.values[2:5] = 0.3  # 1e or 1o along [111]
    assert "3" in study["broken"].recovered(
        study["broken"].read_theta(network, task.after), task.before
    )
