"""Relaxed weights read as broken symmetry, against group theory."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import fcc100
from click.testing import CliRunner
from e3nn import o3
from helpers.tiers import tiered
from PIL import Image
from safetensors.torch import save
from scipy.spatial.transform import Rotation
from torch import nn

import geocalc
from geocalc.architectures import ARCHITECTURES
from geocalc.cli.main import main
from geocalc.errors import InputError
from geocalc.nn.relaxed_weights import Theta
from geocalc.potentials.card import ModelCard
from geocalc.potentials.load import load_model
from geocalc.potentials.registry import CARD, WEIGHTS, write_card
from geocalc.symmetry.invariants import (
    harmonics,
    invariant_basis,
    invariant_projector,
    quadrupole_matrix,
    wigner_matrix,
)
from geocalc.symmetry.orientations import best_orientation
from geocalc.symmetry.plot import plot_breaking
from geocalc.symmetry.point_groups import HERMANN_MAUGUIN, identify_point_group, point_group
from geocalc.symmetry.report import SymmetryBreaking, symmetry_breaking

R = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()
ALL = "0e + 0o + 1o + 1e + 2e + 2o + 3e + 3o + 4e + 4o"
# of which every crystal class leaves something that no larger one does
ENOUGH = ALL + " + 5e + 5o + 6e + 6o + 7e + 9o"


def theta_of(
    irreps: str,
    group: str | np.ndarray | None = None,
    rotation: np.ndarray | None = None,
    seed: int = 0,
) -> Theta:
    """Weights drawn at random from what a group leaves, then turned; as new without a group."""
    theta, rng = Theta(o3.Irreps(irreps)).double(), np.random.default_rng(seed)
    for block, rows in zip(theta.blocks, theta.parts(), strict=True):
        if group is None or block.is_scalar:
            continue
        basis = invariant_basis(group, block.degree, block.parity)
        drawn = rng.normal(size=(block.copies, len(basis))) @ basis
        turn = (
            np.eye(block.width)
            if rotation is None
            else wigner_matrix(block.degree, block.parity, rotation[None])[0]
        )
        rows.data.copy_(torch.from_numpy(drawn @ turn.T))
    return theta


def set_irrep(theta: Theta, name: str, *copies: list[float]) -> Theta:
    """The same weights with those of one irrep set."""
    rows = next(
        rows for block, rows in zip(theta.blocks, theta.parts(), strict=True) if block.name == name
    )
    rows.data.copy_(torch.tensor(copies))
    return theta


def one(breaking: SymmetryBreaking, irrep: str) -> list:
    return [component for component in breaking.components if component.irrep == irrep]


@pytest.mark.parametrize(
    ("group", "even"),
    [("Oh", (1, 0, 0, 1)), ("D4h", (1, 1, 0, 2)), ("D2h", (1, 2, 1, 3)), ("C1", (1, 5, 7, 9))],
)
def test_how_much_of_each_irrep_a_group_leaves(group: str, even: tuple[int, ...]) -> None:
    assert tuple(len(invariant_basis(group, degree, 1)) for degree in (0, 2, 3, 4)) == even
    rest = [
        len(invariant_basis(group, 1, 1)),
        *(len(invariant_basis(group, degree, -1)) for degree in range(5)),
    ]
    assert rest == ([3, 1, 3, 5, 7, 9] if group == "C1" else [0] * 6)


@pytest.mark.parametrize("group", ["C3v", "D4", "Td", "Th", "Oh"])
@pytest.mark.parametrize("degree", [1, 3, 4, 6])
def test_dimensions_are_the_means_of_characters(group: str, degree: int) -> None:
    """Trace of D: (+-) sin((l + 1/2) a) / sin(a / 2), of a rotation by a."""
    matrices = point_group(group)
    signs = np.linalg.det(matrices).round()
    angles = np.arccos(np.clip((signs * np.trace(matrices, axis1=1, axis2=2) - 1) / 2, -1, 1))
    orders = np.arange(-degree, degree + 1)
    for parity in (1, -1):
        characters = np.cos(orders * angles[:, None]).sum(axis=1) * np.where(signs < 0, parity, 1)
        assert len(invariant_basis(group, degree, parity)) == round(characters.mean())


def test_exact_ratios_of_cube_and_prism() -> None:
    (cube,), (prism,) = invariant_basis("Oh", 4, 1), invariant_basis("D4h", 2, 1)
    for values, ratio in ((cube, np.sqrt(5 / 7)), (prism, -np.sqrt(3))):
        small, large = sorted(values[np.abs(values) > 1e-12], key=abs)
        assert (np.abs(values) > 1e-12).sum() == 2
        assert (small / large == pytest.approx(ratio)) or (large / small == pytest.approx(ratio))
    np.testing.assert_allclose(
        quadrupole_matrix(prism) / quadrupole_matrix(prism)[0, 0],
        np.diag([1.0, 1.0, -2.0]),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("degree", "parity"), [(0, 1), (0, -1), (1, -1), (1, 1), (2, 1), (3, -1), (4, -1)]
)
def test_irreps_turn_as_those_of_e3nn_do(degree: int, parity: int) -> None:
    matrices = np.stack([R, -R, R @ np.diag([1.0, 1.0, -1.0])])
    expected = o3.Irrep(degree, parity).D_from_matrix(torch.from_numpy(matrices)).numpy()
    turns = wigner_matrix(degree, parity, matrices)
    np.testing.assert_allclose(turns, expected, atol=1e-5)  # those of e3nn go through angles
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1),
        np.broadcast_to(np.eye(2 * degree + 1), turns.shape),
        atol=1e-13,
    )


def test_vectors_are_vectors_and_degree_two_is_a_matrix() -> None:
    np.testing.assert_allclose(wigner_matrix(1, -1, -R[None])[0], -R, atol=1e-14)
    np.testing.assert_allclose(wigner_matrix(1, 1, -R[None])[0], R, atol=1e-14)
    values, direction = np.array([0.3, -1.0, 0.2, 0.7, -0.4]), R[0]
    matrix = quadrupole_matrix(values)
    assert np.trace(matrix) == pytest.approx(0, abs=1e-14)
    assert direction @ matrix @ direction == pytest.approx(harmonics(2, direction) @ values)
    np.testing.assert_allclose(
        quadrupole_matrix(wigner_matrix(2, 1, R[None])[0] @ values), R @ matrix @ R.T, atol=1e-14
    )


def test_a_projector_projects_and_its_image_stays() -> None:
    space = invariant_projector("C3v", 3, -1)
    np.testing.assert_allclose(space @ space, space, atol=1e-14)
    kept = invariant_basis("C3v", 3, -1)
    np.testing.assert_allclose(
        wigner_matrix(3, -1, point_group("C3v")) @ kept.T,
        np.broadcast_to(kept.T, (6, *kept.T.shape)),
        atol=1e-14,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", tiered(["Cs", "D2", "D2d", "S6", "C6h", "D3h", "T", "O"], fast=["D2", "S6"])
)
def test_weights_that_a_group_leaves_are_reported_with_that_group(name: str) -> None:
    breaking = symmetry_breaking(theta_of(ENOUGH, name), name)
    assert (breaking.symmetry.schoenflies, breaking.symmetry.hermann_mauguin) == (
        name,
        HERMANN_MAUGUIN[name],
    )
    assert breaking.layers[0].share == pytest.approx(1.0)
    assert breaking.symmetry.order == len(point_group(name))
    assert identify_point_group(breaking.symmetry.matrices).schoenflies == name


@pytest.mark.parametrize("name", ["C2v", "D4h", "C3v"])
def test_turned_weights_are_reported_with_the_same_group_where_they_have_an_axis(name: str) -> None:
    found = symmetry_breaking(theta_of(ALL, name, R)).symmetry
    assert found.schoenflies == name
    matrices = point_group(name, R)
    assert (
        np.abs(matrices[:, None] - found.matrices[None]).max(axis=(2, 3)).min(axis=1).max() < 1e-6
    )


def test_what_has_no_axis_of_its_own_is_found_in_the_orientation_given() -> None:
    theta = theta_of("0e + 4e", "Oh", R)
    assert symmetry_breaking(theta).symmetry.schoenflies == "Ci"
    assert symmetry_breaking(theta, orientation=R).symmetry.schoenflies == "Oh"
    breaking = symmetry_breaking(theta, "Oh", orientation=R)
    assert (breaking.symmetry.schoenflies, breaking.layers[0].share) == ("Oh", pytest.approx(1.0))
    assert symmetry_breaking(theta, point_group("Oh", R)).symmetry.schoenflies == "Oh"
    assert symmetry_breaking(theta, "Oh").layers[0].share < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Oh", "D4h", "C3v"])
def test_the_best_orientation_is_that_of_the_task(name: str) -> None:
    theta = theta_of("0e + 1o + 2e + 3e + 4e", name, R)
    best = best_orientation(theta, name)
    assert best.share == pytest.approx(1.0, abs=1e-10)
    found = symmetry_breaking(theta, point_group(name, best.rotation)).layers[0]
    assert found.share == pytest.approx(1.0, abs=1e-10)
    assert np.trace(best.rotation) >= np.trace(R) - 1e-6  # no turn by a larger angle than need be


def test_the_best_orientation_of_several_layers_is_one_for_all() -> None:
    layers = [theta_of("0e + 2e + 4e", "D4h", R, seed) for seed in (1, 2)]
    assert best_orientation(layers, "D4h").share == pytest.approx(1.0)
    across = [
        theta_of("0e + 2e", "D4h"),
        theta_of("0e + 2e", "D4h", Rotation.from_euler("x", 90, degrees=True).as_matrix()),
    ]
    assert best_orientation(across, "D4h").share < 0.95
    with pytest.raises(InputError, match="break no symmetry"):
        best_orientation(theta_of(ALL), "D4h")


def test_fields_are_told_by_direction_and_parity() -> None:
    """A polar vector E across an axial vector B leaves the mirror plane that holds E and is normal
    to B.
    """
    electric, magnetic = R[:, 0], R[:, 1]
    theta = set_irrep(
        set_irrep(theta_of("0e + 0o + 1o + 1e"), "1o", (0.7 * electric).tolist()),
        "1e",
        (-0.2 * magnetic).tolist(),
    )
    breaking = symmetry_breaking(theta)
    (polar,), (axial,) = one(breaking, "1o"), one(breaking, "1e")
    np.testing.assert_allclose(polar.direction, electric, atol=1e-6)
    assert axial.angle(magnetic) == pytest.approx(0.0, abs=1e-4)
    assert polar.angle(magnetic) == pytest.approx(90.0, abs=1e-4)
    assert polar.relative == pytest.approx(0.7)
    assert breaking.symmetry.schoenflies == "Cs"
    np.testing.assert_allclose(breaking.symmetry.matrices[1] @ magnetic, -magnetic, atol=1e-6)
    text = str(breaking)
    assert "polar vector" in text
    assert "axial vector" in text


@pytest.mark.parametrize(
    ("irreps", "name"),
    [("1o", "C∞v"), ("1e", "C∞h"), ("2e", "D∞h"), ("2o", "D∞"), ("1o + 1e", "C∞"), ("0o", "SO(3)")],
)
def test_what_only_an_axis_breaks_has_a_group_about_it(irreps: str, name: str) -> None:
    theta = theta_of(f"0e + {irreps}")
    for part in irreps.split(" + "):
        degree, parity = int(part[0]), 1 if part[1] == "e" else -1
        axis = harmonics(degree, R[:, 2])
        set_irrep(theta, part, (0.4 * parity * axis).tolist())
    found = symmetry_breaking(theta).symmetry
    assert (found.schoenflies, found.order) == (name, None)
    if name != "SO(3)":
        assert abs(found.axis @ R[:, 2]) == pytest.approx(1.0)


def test_the_axes_of_degree_two_tell_the_normal() -> None:
    theta = set_irrep(theta_of("0e + 2e"), "2e", harmonics(2, R[:, 2]).tolist())
    (component,) = one(symmetry_breaking(theta), "2e")
    np.testing.assert_allclose(
        component.axes.values / component.axes.values[0], [1.0, -0.5, -0.5], atol=1e-6
    )
    assert component.angle(R[:, 2]) == pytest.approx(0.0, abs=1e-3)
    assert component.angle(-3 * R[:, 0]) == pytest.approx(90.0, abs=1e-3)


def test_layers_are_told_apart_and_together() -> None:
    network = nn.ModuleDict(
        {"first": theta_of(ALL, "D4h"), "second": theta_of(ALL, "C4v"), "third": theta_of(ALL)}
    )
    breaking = geocalc.symmetry_breaking(network, "4/mmm")
    assert [layer.name for layer in breaking.layers] == ["first", "second", "third"]
    assert [layer.symmetry.schoenflies for layer in breaking.layers] == ["D4h", "C4v", "O(3)"]
    assert breaking.symmetry.schoenflies == "C4v"
    first, second, third = breaking.layers
    assert (first.share, third.share, third.broken) == (pytest.approx(1.0), None, 0.0)
    squared = {component.irrep: component.length**2 for component in second.components}
    expected = (squared["2e"] + squared["4e"]) / sum(
        size for irrep, size in squared.items() if irrep != "0e"
    )
    assert second.share == pytest.approx(expected)
    text = str(breaking)
    assert "the symmetry left is C4v (4mm)" in text
    assert "nothing is broken: O(3)" in text
    assert (
        len(
            {
                len(line[: line.index(" of ")])
                for line in text.splitlines()
                if re.search(r"%  \d of", line)
            }
        )
        == 1
    )


def test_crossed_prisms_leave_what_both_have() -> None:
    across = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    network = nn.ModuleDict(
        {"a": theta_of("0e + 2e + 4e", "D4h"), "b": theta_of("0e + 2e + 4e", "D4h", across)}
    )
    breaking = symmetry_breaking(network)
    assert [layer.symmetry.schoenflies for layer in breaking.layers] == ["D4h", "D4h"]
    assert breaking.symmetry.schoenflies == "D2h"


def test_copies_are_told_one_by_one() -> None:
    theta = set_irrep(theta_of("2x0e + 2x1o"), "1o", [0.0, 0.0, 0.0], [0.0, 3.0, 4.0])
    set_irrep(theta, "0e", [3.0], [-4.0])
    zero, vector = one(symmetry_breaking(theta, "C4v"), "1o")
    assert (zero.copy, zero.is_zero, zero.direction, zero.share) == (0, True, None, None)
    assert (vector.copy, vector.is_zero, vector.dimension) == (1, False, 1)
    np.testing.assert_allclose(vector.direction, [0.0, 0.6, 0.8])
    assert vector.share == pytest.approx(0.64)
    assert vector.relative == pytest.approx(5 / np.sqrt(12.5))
    assert "zero: 1o 1" in str(symmetry_breaking(theta))


def test_an_untouched_network_is_equivariant() -> None:
    breaking = symmetry_breaking(nn.ModuleDict({"layer": Theta(o3.Irreps(ALL))}), "Oh")
    assert breaking.symmetry.schoenflies == "O(3)"
    assert all(component.is_zero for component in breaking.components if component.irrep != "0e")
    assert str(breaking).startswith("relaxed weights of 1 layer: nothing is broken")


def test_noise_below_the_tolerance_is_not_read_as_symmetry_breaking() -> None:
    theta = theta_of(ALL, "D4h", seed=3)
    generator = torch.Generator().manual_seed(0)
    theta.values.data += 2e-4 * torch.randn(
        theta.values.shape, generator=generator, dtype=torch.float64
    )
    assert symmetry_breaking(theta).symmetry.schoenflies == "D4h"
    assert symmetry_breaking(theta, tolerance=1e-6, zero=0.0).symmetry.schoenflies == "C1"


def test_what_cannot_be_read_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="a calculator or a network, got list"):
        symmetry_breaking([])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Linear has no relaxed weights"):
        symmetry_breaking(nn.Linear(2, 2))
    theta = theta_of("0e + 1o")
    with pytest.raises(InputError, match="tolerance and zero are parts of a length"):
        symmetry_breaking(theta, tolerance=2.0)
    with pytest.raises(InputError, match="no crystal class is named"):
        symmetry_breaking(theta, "D4k")
    with pytest.raises(InputError, match="an orientation must be"):
        symmetry_breaking(theta, orientation=np.ones((3, 3)))
    with pytest.raises(InputError, match="degree must be 0 to 11"):
        invariant_basis("Oh", 12, 1)
    scalar, vector = symmetry_breaking(theta).components
    with pytest.raises(InputError, match="1o of theta has no direction"):
        vector.angle([0, 0, 1])
    with pytest.raises(InputError, match="0e of theta has no direction"):
        scalar.angle([0, 0, 1])
    set_irrep(theta, "1o", [0.0, float("nan"), 0.0])
    with pytest.raises(InputError, match="not all finite"):
        symmetry_breaking(theta)


@pytest.mark.slow
def test_a_picture_shows_kept_and_changed_parts(tmp_path: Path) -> None:
    network = nn.ModuleDict(
        {
            "first": theta_of(ALL, "C4v"),
            "second": theta_of("0e + 2x2e", "C1"),
            "third": theta_of("0e"),
        }
    )
    path = plot_breaking(symmetry_breaking(network, "D4h"), tmp_path / "of" / "breaking.png")
    with Image.open(path) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 20)}
        assert image.size[0] > image.size[1]
    for wanted in ((0x2F, 0x6D, 0xB3), (0xD9, 0x82, 0x2B), (0x3A, 0x91, 0x88)):
        assert min(np.abs(np.subtract(color, wanted)).max() for color in colors) < 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose first layer has become a turned prism."""
    settings = {
        "cutoff": 3.0,
        "features": "4x0e + 2x1o",
        "num_layers": 2,
        "num_gaussians": 4,
        "radial_hidden": 4,
        "num_radial": 2,
    }
    architecture = ARCHITECTURES["regnn"]
    network = architecture.build(architecture.settings.model_validate(settings))
    first = next(part for part in network.modules() if isinstance(part, Theta))
    prism = 0.3 * wigner_matrix(2, 1, R[None])[0] @ invariant_basis("D4h", 2, 1)[0]
    set_irrep(first, "2e", prism.tolist())
    content = save({name: value.contiguous() for name, value in network.state_dict().items()})
    place = tmp_path / "prism"
    place.mkdir()
    (place / WEIGHTS).write_bytes(content)
    values = {
        **{
            "name": "prism",
            "architecture": "regnn",
            "settings": settings,
            "cutoff": 3.0,
            "elements": ("H",),
        },
        **{
            "energy_kind": "adsorption",
            "level_of_theory": "none",
            "reference_text": "none",
            "reference_energies": {"H": 0.0},
        },
        **{
            "energy_scale": 1.0,
            "force_scale": 1.0,
            "frames": "none",
            "force_mode": "gradient",
            "conservative": True,
        },
        **{
            "repulsion_reach": 0.8,
            "weights_sha256": hashlib.sha256(content).hexdigest(),
            "license": "MIT",
            "domain": "tests",
        },
    }
    write_card(place, ModelCard.parse(values, CARD))
    return place


def test_models_and_calculators_are_read_alike(folder: Path) -> None:
    loaded, calculator = load_model(folder, device="cpu"), geocalc.GeoCalc(folder, device="cpu")
    network = loaded.potential.model.network
    texts = {
        str(symmetry_breaking(model, "D4h"))
        for model in (loaded, calculator, network, folder, str(folder))
    }
    assert len(texts) == 1
    assert symmetry_breaking(loaded).symmetry.schoenflies == "D∞h"


@pytest.mark.slow
def test_the_command_tells_draws_and_turns(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["symmetry", str(folder), *arguments])
        return done.exit_code, done.output

    status, text = run("--group", "D4h", "--plot", str(tmp_path / "prism.png"))
    assert status == 0, text
    assert "the symmetry left is D∞h about" in text
    assert "100.00%  1 of 5" not in text
    assert (tmp_path / "prism.png").is_file()
    slab = fcc100("Cu", (1, 1, 2), vacuum=6.0)
    slab.info.clear()
    slab.write(tmp_path / "slab.xyz")
    status, text = run("--structure", str(tmp_path / "slab.xyz"), "--align")
    assert status == 0, text
    assert "100.00%  1 of 5" in text
    assert "slab.xyz has the point group D4h (4/mmm)" in text
    assert "D4h (4/mmm) keeps 100.00% after a turn by" in text
    for wrong, message in ((["--align"], "no group to turn"), (["--group", "D4k"], "did you mean")):
        status, text = run(*wrong)
        assert (status, message in text) == (1, True)


def test_the_shipped_model_knows_up_from_down() -> None:
    """It has learned of slabs turned about their normals, which leaves theta their axis only; that
    up is not down it has found.
    """
    found = symmetry_breaking("regnn", "C6v")
    assert found.symmetry.schoenflies == "C∞v"
    assert all(layer.share is not None and layer.share > 0.99 for layer in found.layers)
    polar = [one for one in found.components if one.irrep == "1o" and not one.is_zero]
    assert polar
    assert max(one.angle(np.array([0.0, 0.0, 1.0])) for one in polar) < 2.0
