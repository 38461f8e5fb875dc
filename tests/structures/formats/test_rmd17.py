"""Files of rMD17: what is read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.molecules import dynamics, rmd17_arrays

from geocalc.errors import InputError
from geocalc.structures.labels import read_labels
from geocalc.structures.readers import Source, count_structures, read_structures


def test_frames_come_in_ev(tmp_path: Path) -> None:
    frames = dynamics(4)
    np.savez(tmp_path / "m.npz", **rmd17_arrays(frames))
    found = list(read_structures(tmp_path / "m.npz"))
    assert count_structures([tmp_path / "m.npz"]) == 4
    for k, (one, frame) in enumerate(zip(found, frames, strict=True)):
        assert isinstance(one, Source)
        assert one.sid == f"m.npz#{k}"
        assert one.atoms.info["old_index"] == 7 * k
        assert not one.atoms.pbc.any()
        np.testing.assert_array_equal(one.atoms.numbers, frame.numbers)
        np.testing.assert_array_equal(one.atoms.positions, frame.positions)
        told = read_labels(one.atoms)
        assert told.forces is not None
        assert told.energy == pytest.approx(frame.calc.results["energy"], rel=1e-7)
        np.testing.assert_allclose(told.forces, frame.calc.results["forces"], rtol=1e-7)


def test_numbers_of_frames_may_be_missing(tmp_path: Path) -> None:
    arrays = rmd17_arrays(dynamics(2))
    del arrays["old_indices"]
    np.savez(tmp_path / "m.npz", **arrays)
    assert [one.atoms.info.keys() for one in read_structures(tmp_path / "m.npz")] == [
        {"REF_energy"}
    ] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"forces": None},
            (
                "it has no forces but nuclear_charges, coords, energies, old_indices; only .npz"
                " files of rMD17 are supported"
            ),
        ),
        ({"forces": None, "coords": None}, "it has no coords and no forces but nuclear_charges"),
        (
            {"forces": np.zeros((3, 5, 3))},
            r"forces has the shape \(3, 5, 3\); expected \(3, 6, 3\) for 3 energies of 6 atoms",
        ),
        ({"energies": np.zeros((3, 1))}, r"energies has the shape \(3, 1\); expected \(3,\)"),
        ({"old_indices": np.zeros(2)}, r"old_indices has the shape \(2,\); expected \(3,\)"),
        (
            {"energies": np.array([1.0, None, 2.0])},
            "Object arrays cannot be loaded when allow_pickle=False",
        ),
    ],
)
def test_other_contents_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    arrays = {
        name: array
        for name, array in (rmd17_arrays(dynamics(3)) | change).items()
        if array is not None
    }
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=message):
        list(read_structures(tmp_path / "m.npz"))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **rmd17_arrays(dynamics(3)))
    whole = (tmp_path / "m.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with (tmp_path / "one.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    for name, message in (
        ("cut.npz", "cannot read .*cut.npz: BadZipFile"),
        ("one.npz", "it contains a single array"),
    ):
        with pytest.raises(InputError, match=message):
            list(read_structures(tmp_path / name))


def test_a_folder_gives_no_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **rmd17_arrays(dynamics(2)))
    with pytest.raises(InputError, match="holds no structure file; give the files themselves"):
        list(read_structures(tmp_path))
