"""ZINC: molecules of its files, and files that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from geocalc.errors import InputError
from geocalc.properties.zinc import MoleculeGraph, read_zinc

# water and ethane without hydrogens, and one atom alone
TYPES = ([2], [0, 0], [5])
EDGES = ([[], []], [[0, 1], [1, 0]], [[], []])
BONDS = ([], [1, 1], [])
TARGETS = (-0.5, 1.25, 0.0)


def arrays() -> dict[str, np.ndarray]:
    """The three molecules as the file has them."""
    edges = [np.array(one, dtype=np.int64) for one in EDGES]
    starts = {
        "x": [0, 1, 3, 4],
        "edge_index": [0, 0, 2, 2],
        "edge_attr": [0, 0, 2, 2],
        "y": [0, 1, 2, 3],
    }
    found = {f"val_{name}_slices": np.array(values) for name, values in starts.items()}
    found["val_x"] = np.concatenate(TYPES)[:, None]
    found["val_edge_index"] = np.concatenate(edges, axis=1)
    found["val_edge_attr"] = np.concatenate(BONDS).astype(np.int64)
    found["val_y"] = np.array(TARGETS, dtype=np.float32)[:, None]
    return found


def assert_expected(found: tuple[MoleculeGraph, ...]) -> None:
    for one, types, edges, bonds, target in zip(found, TYPES, EDGES, BONDS, TARGETS, strict=True):
        assert one.types.tolist() == types
        assert one.edge_index.tolist() == edges
        assert one.bond_types.tolist() == bonds
        assert one.target == target
        assert {values.dtype for values in (one.types, one.edge_index, one.bond_types)} == {
            torch.int64
        }


def test_molecules_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "z.npz", **arrays())
    assert_expected(read_zinc(tmp_path / "z.npz", "val"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_y": None, "val_x": None}, "has no val_x and no val_y but val_x_slices, "),
        (
            {"val_y_slices": np.arange(3)},
            "val_x_slices has 4, .* val_y_slices has 3; expected as many in each",
        ),
        (
            {"val_x_slices": np.array([0, 1, 3, 5])},
            r"val_x_slices does not cut val_x of shape \(4, 1\); expected 0 to 4 ascending",
        ),
        (
            {"val_edge_index_slices": np.array([0, 3, 2, 2])},
            "val_edge_index_slices does not cut val_edge_index",
        ),
        (
            {"val_edge_index": np.array([[0, 2], [1, 0]])},
            "molecule 1 of val: edges join atoms 0 to 2; it has atoms 0 to 1",
        ),
        (
            {"val_x": np.ones((4, 1))},
            (
                r"molecule 0 of val: x is float64 of shape \(1, 1\); expected whole numbers of"
                r" shape \(1, 1\)"
            ),
        ),
        ({"val_x": np.array([[0], [0], [-1], [0]])}, "molecule 1 of val has types from -1"),
        ({"val_x_slices": np.array([0, 0, 3, 4])}, "molecule 0 of val has no atoms"),
        (
            {"val_y": np.array([[0.0], [np.nan], [0.0]])},
            r"molecule 1 of val: y is \[nan\]; expected one finite number",
        ),
        (
            {"val_edge_attr": np.ones((2, 4))},
            r"molecule 0 of val: edge_attr is float64 of shape \(0, 4\)",
        ),
    ],
)
def test_damaged_arrays_are_refused_in_one_sentence(
    change: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    kept = {name: values for name, values in (arrays() | change).items() if values is not None}
    np.savez(tmp_path / "z.npz", **kept)
    with pytest.raises(InputError, match=message) as told:
        read_zinc(tmp_path / "z.npz", "val")
    assert "\n" not in str(told.value)


def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "z.npz"
    with pytest.raises(InputError, match=r"cannot read .*z.npz: No such file"):
        read_zinc(path, "val")
    np.savez(path, **arrays())
    with pytest.raises(InputError, match=r"has no train_x and .* split is 'train'"):
        read_zinc(path, "train")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"version https://git-lfs.github.com/spec/v1\n", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"is not a readable .npz"):
            read_zinc(path, "val")
    path.write_bytes(whole.replace(arrays()["val_y"].tobytes(), bytes(12)))
    with pytest.raises(InputError, match=r"is not a readable .npz"):
        read_zinc(path, "val")
    np.save(tmp_path / "z.npy", np.arange(3))
    with pytest.raises(InputError, match="holds a single array"):
        read_zinc(tmp_path / "z.npy", "val")
    np.savez(path, **arrays() | {"val_x": np.array([{}], dtype=object)})
    with pytest.raises(InputError, match=r"is not a readable .npz"):
        read_zinc(path, "val")


@pytest.mark.data
@pytest.mark.parametrize(
    ("split", "n_nodes", "n_edges", "mean", "spread"),
    [("val", 23_083, 49_692, 0.0315, 1.985), ("test", 23_117, 49_720, 0.0124, 2.017)],
)
def test_the_published_numbers(
    split: str, n_nodes: int, n_edges: int, mean: float, spread: float
) -> None:
    root = os.environ.get("GEOCALC_DATA")
    if root is None:
        pytest.skip("GEOCALC_DATA is not set")
    found = read_zinc(Path(root) / "zinc12k-valtest" / "zinc12k_val_test.npz", split)
    types, bonds = (
        torch.cat([one.types for one in found]),
        torch.cat([one.bond_types for one in found]),
    )
    targets = np.array([one.target for one in found])
    assert len(found) == 1000
    assert (len(types), len(bonds)) == (n_nodes, n_edges)  # 23.1 and 49.8 each, of all 12,000
    assert int(types.max()) < 21  # kinds of atoms in the subset
    assert float((types == 0).double().mean()) == pytest.approx(0.70, abs=0.005)  # carbon
    shares = torch.bincount(bonds).double() / len(bonds)
    assert shares.tolist() == pytest.approx([0.0, 0.746, 0.252, 0.0024], abs=0.001)
    assert (targets.mean(), targets.std()) == pytest.approx((mean, spread), abs=5e-4)
    for one in found:
        there = set(map(tuple, one.edge_index.T.tolist()))
        assert {(b, a) for a, b in there} == there
        assert len(there) == one.edge_index.shape[1]
