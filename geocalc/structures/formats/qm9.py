"""QM9 as torch-geometric keeps it on the disk, turned into an extended XYZ file that recipes read;
nothing is downloaded.

Sources: Ramakrishnan et al., Sci. Data 1, 140022 (2014); a permutation of seed 123, cut into
110,000, 10,000 and the rest, as for the published FAENet. The permutation is torch's; whether that
of the authors came from the same generator is not known here.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.io.extxyz import write_xyz

from geocalc.errors import InputError, MissingDependencyError

# column of the internal energy at 0 K, which torch-geometric converts to eV, in float32: near 1e4
# eV that is 1 meV
U0 = 7
SEED = 123
N_TRAINING, N_VALIDATION = 110_000, 10_000
_NEEDED = ("z", "pos", "y")


def qm9_frames(
    root: Path, n_training: int = N_TRAINING, n_validation: int = N_VALIDATION
) -> Iterator[Atoms]:
    """The molecules of QM9, in the order of torch-geometric.

    Args:
        root: the folder given to `torch_geometric.datasets.QM9`, which has downloaded and processed
            the set there.
        n_training, n_validation: sizes of the split; the rest is the test set.
    Yields:
        A molecule: `info["REF_energy"]` U0 in eV, `info["sid"]` its number or name, `info["split"]`
        train, validation or test.
    Raises:
        InputError: the folder holds no processed QM9, or has fewer molecules than training and
            validation take.
        MissingDependencyError: torch-geometric is not installed.
    """
    values, slices = _processed(root)
    z, positions, targets = (values[name].numpy() for name in _NEEDED)
    ends, names = slices["z"].tolist(), values.get("name")
    split = _split(len(ends) - 1, n_training, n_validation)
    for k, (first, end) in enumerate(itertools.pairwise(ends)):
        atoms = Atoms(z[first:end], positions[first:end].astype(float))
        atoms.info |= {
            "sid": f"qm9-{k}" if names is None else str(names[k]),
            "REF_energy": float(targets[k, U0]),
            "split": str(split[k]),
        }
        yield atoms


def write_qm9(root: Path, path: Path) -> int:
    """Write QM9 to an extended XYZ file; returns how many molecules.

    A recipe reads it with `validation_key: split`, `validation_values: [validation]`, and
    `exclude_key: split`, `exclude_groups: [test]` in its source; it learns energies alone
    (`force_mode: none`, `force_weight: 0`).

    Args:
        root: see `qm9_frames`.
        path: to write.
    Raises:
        InputError, MissingDependencyError: see `qm9_frames`.
    """
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        for atoms in qm9_frames(root):
            write_xyz(stream, [atoms])
            written += 1
    return written


def _processed(root: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Arrays of all molecules, one after the other, and where each begins and ends; no code that
    the file may hold is run.
    """
    files = sorted((root / "processed").glob("data*.pt"))
    if not files:
        raise InputError(
            f"{root} holds no processed/data*.pt; make it with"
            f" torch_geometric.datasets.QM9({str(root)!r}) where there is a network"
        )
    _allow_torch_geometric()
    try:
        values, slices, *_ = torch.load(files[-1], map_location="cpu", weights_only=True)
        if (
            all(name in values for name in _NEEDED)
            and values["y"].shape[1:] == (19,)
            and "z" in slices
        ):
            return values, slices
        found = f"holds {', '.join(map(str, values))}"
    except (pickle.UnpicklingError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        found = f"cannot be read ({str(error).splitlines()[0]})"
    raise InputError(
        f"{files[-1]} {found}, where z, pos and 19 targets of each molecule are expected, as"
        " torch-geometric 2.4 and later writes them; remove the folder `processed` and make it"
        " again"
    )


def _allow_torch_geometric() -> None:
    """Make torch's loader, which runs no code, know the classes of torch-geometric that such files
    name.
    """
    try:
        import torch_geometric.data  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "QM9 needs torch-geometric; install it with: pip install torch-geometric"
        ) from None


def _split(n: int, n_training: int, n_validation: int) -> np.ndarray:
    """The part of each of `n` molecules, (n,) of words: a random permutation, cut."""
    if n_training + n_validation >= n:
        raise InputError(
            f"there are {n} molecules, too few to train on {n_training}, validate on {n_validation}"
            " and test on the rest"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SEED)).numpy()
    parts = np.full(n, "validation", dtype=object)
    parts[order[:n_training]], parts[order[n_training + n_validation :]] = "train", "test"
    return parts
