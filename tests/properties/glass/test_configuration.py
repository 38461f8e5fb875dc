"""Configurations: files of three kinds, ASE, and one sentence for whatever is no configuration."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from helpers.glass_engine import small_configuration

from geocalc.errors import InputError
from geocalc.properties.glass.configuration import (
    GlassConfiguration,
    configuration_of,
    glass_atoms,
    read_configuration,
    write_configuration,
)

SMALL = small_configuration()
BAPST = "glassy-kob-andersen-1config/ka_T044_4096.npz"
BOTAN = "glassy-kob-andersen-botan/ka_T0.44_1.npz"


def arrays_of(configuration: GlassConfiguration) -> dict[str, Any]:
    return {
        f.name: getattr(configuration, f.name) for f in fields(configuration) if f.name != "name"
    }


def data(name: str) -> Path:
    return Path(os.environ["GEOCALC_DATA"]) / name


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_configuration(tmp_path / "small.npz", SMALL)
    again = read_configuration(tmp_path / "small.npz")
    assert again.name == "small"
    for name, value in arrays_of(SMALL).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_what_is_not_known_stays_unknown(tmp_path: Path) -> None:
    bare = replace(
        SMALL, half_a=None, half_b=None, isf=None, n_runs=None, temperature=None, ageing=None
    )
    write_configuration(tmp_path / "bare.npz", bare)
    again = read_configuration(tmp_path / "bare.npz")
    assert (again.half_a, again.isf, again.n_runs, again.temperature) == (None, None, None, None)


@pytest.mark.data
def test_the_sample_of_bapst_has_ten_times_of_which_the_last_is_the_relaxation_time() -> None:
    sample = read_configuration(data(BAPST))
    assert (sample.n_particles, sample.n_times, sample.types.sum()) == (4096, 10, 819)
    assert sample.isf is not None
    assert sample.isf[9] == pytest.approx(np.exp(-1))
    order = np.argsort(sample.isf)[::-1]
    assert np.all(np.diff(sample.times[order]) > 0)
    assert np.all(np.diff(sample.propensity[order][:, sample.types == 0].mean(axis=1)) > 0)
    assert sample.propensity[9, sample.types == 0].mean() == pytest.approx(0.438, abs=5e-4)


@pytest.mark.data
def test_a_file_of_botan_has_one_unknown_time_and_two_halves() -> None:
    one = read_configuration(data(BOTAN))
    assert (one.temperature, one.n_runs, one.propensity.shape) == (0.44, 32, (1, 4096))
    assert np.isnan(one.times).all()
    assert one.half_a is not None
    assert one.half_b is not None
    np.testing.assert_allclose((one.half_a + one.half_b) / 2, one.propensity, rtol=1e-6)
    assert one.n_particles / one.box.prod() == pytest.approx(1.2, rel=1e-4)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"types": np.where(SMALL.types == 1, 3, 0)}, "types hold 3; expected 0 for A and 1 for B"),
    ({"types": 1 - SMALL.types}, "A, type 0, must be the majority"),
    ({"types": SMALL.types + 0.5}, "not whole"),
    ({"types": SMALL.types[:-1]}, r"positions has shape \(216, 3\); expected \(215, 3\)"),
    ({"positions": SMALL.positions[:, :2]}, r"positions has shape \(216, 2\)"),
    (
        {"positions": np.where(SMALL.positions > 4, np.nan, SMALL.positions)},
        "positions holds .* not numbers",
    ),
    ({"positions": SMALL.positions.astype(str)}, "instead of numbers"),
    (
        {"propensity": SMALL.propensity[0]},
        r"propensity has shape \(216,\); expected \(2, 216\) for 216 particles and 2 times",
    ),
    ({"propensity": -SMALL.propensity}, "never negative"),
    ({"half_a": SMALL.propensity[:1]}, r"half_a has shape \(1, 216\)"),
    ({"propensity": SMALL.propensity * np.inf}, "propensity holds 432 values"),
    ({"temperature": -1.0}, "temperature is -1"),
    ({"temperature": np.ones(3)}, "expected a single number"),
    ({"box": 0.0}, "not positive"),
    ({"box": -SMALL.box}, "not positive"),
    ({"box": np.ones(2)}, "expected one length or three"),
    ({"box": np.diag(SMALL.box)}, "the box has 9 numbers"),
    ({"box": SMALL.box / 10}, "have density 1.2e\\+03; a glass has about 1.2"),
    ({"box": SMALL.box * 3}, "in other units"),
    ({"box": SMALL.box * 0.88}, "nearer than 0.5"),
    ({"box": SMALL.box * 1.2}, "is empty over"),
]


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_what_is_no_configuration_is_refused_with_the_file(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    np.savez(tmp_path / "wrong.npz", **{**arrays_of(SMALL), **change})
    with pytest.raises(InputError, match=told) as caught:
        read_configuration(tmp_path / "wrong.npz")
    assert str(caught.value).startswith(str(tmp_path / "wrong.npz"))
    assert "\n" not in str(caught.value)


def test_one_length_is_a_cube(tmp_path: Path) -> None:
    np.savez(tmp_path / "cube.npz", **{**arrays_of(SMALL), "box": SMALL.box[0]})
    np.testing.assert_array_equal(read_configuration(tmp_path / "cube.npz").box, SMALL.box)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_damaged(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.npz"
    write_configuration(path, SMALL)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="damaged or is not an npz file"):
        read_configuration(path)


def test_flipped_bytes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "flipped.npz"
    write_configuration(path, SMALL)
    content = bytearray(path.read_bytes())
    content[500:520] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or is not an npz file"):
        read_configuration(path)


def test_other_files_are_named_as_what_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "single.npy", SMALL.positions)
    np.savez(tmp_path / "pickled.npz", **{**arrays_of(SMALL), "types": np.array([None, "A"])})
    np.savez(tmp_path / "less.npz", positions=SMALL.positions, types=SMALL.types, box=SMALL.box)
    for name, told in (
        ("none.npz", "there is no file"),
        ("single.npy", "a single array"),
        ("pickled.npz", "damaged or is not an npz file"),
        ("less.npz", "has no propensity and no times; it holds box, positions, types"),
    ):
        with pytest.raises(InputError, match=told):
            read_configuration(tmp_path / name)


def test_indices_beyond_the_grid_are_refused(tmp_path: Path) -> None:
    known = {
        name: value
        for name, value in arrays_of(SMALL).items()
        if name in ("positions", "types", "box", "propensity")
    }
    np.savez(tmp_path / "far.npz", **known, time=np.arange(3.0), time_indices=np.array([1, 3]))
    with pytest.raises(InputError, match="time_indices run from 1 to 3, but time has 3 entries"):
        read_configuration(tmp_path / "far.npz")


def test_positions_may_lie_outside_the_box() -> None:
    moved = replace(
        SMALL,
        positions=SMALL.positions + SMALL.box * np.random.default_rng(0).integers(-3, 4, (216, 3)),
    )
    assert moved.n_particles == 216


def test_atoms_and_back_through_extxyz() -> None:
    text = StringIO()
    write(text, glass_atoms(SMALL), format="extxyz")
    text.seek(0)
    again = configuration_of(read(text, format="extxyz"))
    np.testing.assert_allclose(again.positions, SMALL.positions, atol=1e-7)
    np.testing.assert_allclose(again.box, SMALL.box)
    np.testing.assert_array_equal(again.types, SMALL.types)
    assert (again.name, again.temperature, again.n_times) == ("small", 0.5, 0)


def test_types_follow_from_which_element_is_more_frequent() -> None:
    symbols = np.where(SMALL.types == 0, "Ni", "P")
    atoms = Atoms(symbols, SMALL.positions, cell=SMALL.box, pbc=True)
    np.testing.assert_array_equal(configuration_of(atoms).types, SMALL.types)


def test_types_of_lammps_are_read(tmp_path: Path) -> None:
    write(tmp_path / "small.data", glass_atoms(SMALL), format="lammps-data", atom_style="atomic")
    atoms = read(tmp_path / "small.data", format="lammps-data", atom_style="atomic")
    np.testing.assert_array_equal(configuration_of(atoms).types, SMALL.types)


def test_atoms_that_are_no_glass_are_refused() -> None:
    three, half, single = (glass_atoms(SMALL) for _ in range(3))
    for atoms in (three, half, single):
        del atoms.arrays["types"]
    three.numbers[0] = 26
    half.numbers[:] = np.repeat([1, 2], 108)
    single.numbers[:] = 1
    open_, skew = glass_atoms(SMALL), glass_atoms(SMALL)
    open_.pbc = [True, True, False]
    skew.cell[0, 1] = 0.5
    for atoms, told in (
        (three, "two species, got 3"),
        (single, r"two species, got 1 \(H\)"),
        (half, "108 of H and of He"),
        (open_, "set pbc"),
        (skew, "orthogonal"),
    ):
        with pytest.raises(InputError, match=told):
            configuration_of(atoms)
