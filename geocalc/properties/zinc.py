"""ZINC-12k, molecules with one number each, from a file of arrays.

Sources: Irwin et al., J. Chem. Inf. Model. 52, 1757 (2012); the subset of Dwivedi et al.,
Benchmarking graph neural networks (2020). The target is log P (octanol and water) less penalties
for hard synthesis and large rings, there called constrained solubility.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from geocalc.errors import InputError

_PARTS = ("x", "edge_index", "edge_attr", "y")


@dataclass(frozen=True, eq=False)
class MoleculeGraph:
    """Molecule as a graph; each bond is stored in both directions.

    Attributes:
        types: (n_nodes,) int64, type of each atom, from 0.
        edge_index: (2, n_edges) int64, senders in row 0, receivers in row 1, in the order of the
            file.
        bond_types: (n_edges,) int64, 1 single, 2 double, 3 triple.
        target: constrained solubility.
    """

    types: Tensor
    edge_index: Tensor
    bond_types: Tensor
    target: float


def read_zinc(path: Path, split: str) -> tuple[MoleculeGraph, ...]:
    """Read the molecules of an npz file.

    Args:
        path: file with the arrays `{split}_x`, `{split}_edge_index`, `{split}_edge_attr` and
            `{split}_y` for each split, concatenated over molecules (edges count atoms from 0 in
            each molecule), and the start of each molecule in `{split}_x_slices`, ...
        split: `val` or `test`; `train` if the file has it.
    Raises:
        InputError: the file cannot be read, has no such split, or is inconsistent; the message
            names the array or the molecule.
    """
    arrays = _arrays(path, split)
    counts = {name: len(arrays[f"{name}_slices"]) for name in _PARTS}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{split}_{name}_slices has {count}" for name, count in counts.items())
        raise InputError(f"{path}: {told}; expected as many in each, one more than molecules")
    parts = {
        name: _cut(path, split, name, arrays[name], arrays[f"{name}_slices"]) for name in _PARTS
    }
    molecules = enumerate(
        zip(parts["x"], parts["edge_index"], parts["edge_attr"], parts["y"], strict=True)
    )
    return tuple(
        _molecule(x, edges, bonds, y, f"{path}: molecule {k} of {split}")
        for k, (x, edges, bonds, y) in molecules
    )


def _arrays(path: Path, split: str) -> dict[str, np.ndarray]:
    """Read the arrays of a split; the keys omit the name of the split."""
    names = [*_PARTS, *(f"{name}_slices" for name in _PARTS)]
    try:
        with path.open("rb") as stream:
            opened = np.load(stream, allow_pickle=False)
            if not isinstance(opened, NpzFile):
                raise InputError(
                    f"{path} holds a single array; expected a .npz of named arrays, such as"
                    f" {split}_x"
                )
            missing = [f"{split}_{name}" for name in names if f"{split}_{name}" not in opened]
            if missing:
                there = ", ".join(opened) or "nothing"
                raise InputError(
                    f"{path} has no {' and no '.join(missing)} but {there}; split is {split!r}"
                )
            return {name: opened[f"{split}_{name}"] for name in names}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} is not a readable .npz of arrays ({' '.join(str(error).split())}); fetch it"
            " again"
        ) from None


def _cut(
    path: Path, split: str, name: str, values: np.ndarray, slices: np.ndarray
) -> list[np.ndarray]:
    """Split an array into molecules, edges along the last axis, others along the first."""
    axis = 1 if name == "edge_index" else 0
    n = values.shape[axis] if values.ndim > axis else 0
    whole = slices.ndim == 1 and slices.dtype.kind in "iu" and len(slices) > 0
    if not (whole and slices[0] == 0 and slices[-1] == n and (np.diff(slices) >= 0).all()):
        raise InputError(
            f"{path}: {split}_{name}_slices does not cut {split}_{name} of shape {values.shape};"
            f" expected 0 to {n} ascending"
        )
    return [values[:, a:b] if axis else values[a:b] for a, b in pairwise(slices.tolist())]


def _molecule(
    x: np.ndarray, edge_index: np.ndarray, edge_attr: np.ndarray, y: np.ndarray, where: str
) -> MoleculeGraph:
    """Check and convert a molecule; messages begin with `where`."""
    types, edges, bonds, target = map(torch.as_tensor, (x, edge_index, edge_attr, y))
    n, n_edges = types.shape[0] if types.dim() else 0, edges.shape[1] if edges.dim() == 2 else 0
    for name, values, shape in (
        ("x", types, (n, 1)),
        ("edge_index", edges, (2, n_edges)),
        ("edge_attr", bonds, (n_edges,)),
    ):
        if values.dtype.is_floating_point or tuple(values.shape) not in {
            shape,
            shape[:1] if name == "x" else shape,
        }:
            raise InputError(
                f"{where}: {name} is {_told(values)}; expected whole numbers of shape {shape}"
            )
    if n == 0 or int(types.min()) < 0:
        told = f"types from {int(types.min())}" if n else "no atoms"
        raise InputError(f"{where} has {told}; expected one atom or more, with types from 0")
    if n_edges and not 0 <= int(edges.min()) <= int(edges.max()) < n:
        raise InputError(
            f"{where}: edges join atoms {int(edges.min())} to {int(edges.max())}; it has atoms 0 to"
            f" {n - 1}"
        )
    if target.numel() != 1 or not bool(torch.isfinite(target).all()):
        raise InputError(
            f"{where}: y is {target.flatten().tolist()[:5]}; expected one finite number"
        )
    return MoleculeGraph(
        types.long().flatten(), edges.long(), bonds.long(), float(target.reshape(()))
    )


def _told(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"
