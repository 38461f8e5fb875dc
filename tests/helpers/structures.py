"""Structures for tests, built by hand from ASE atoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111, molecule
from torch import Tensor

from geocalc.core.systems import Systems

SEED = 7


def systems_of(*structures: Atoms) -> Systems:
    """A batch: float64, tags as they are, nothing fixed."""
    counts = [len(atoms) for atoms in structures]
    return Systems(
        positions=torch.tensor(
            np.concatenate([atoms.positions for atoms in structures]).reshape(-1, 3),
            dtype=torch.float64,
        ),
        numbers=torch.tensor(
            np.concatenate([atoms.numbers for atoms in structures]), dtype=torch.int64
        ),
        tags=torch.tensor(
            np.concatenate([atoms.get_tags() for atoms in structures]), dtype=torch.int64
        ),
        fixed=torch.zeros((sum(counts), 3), dtype=torch.bool),
        system_idx=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
        cell=torch.tensor(
            np.stack([atoms.cell.array for atoms in structures]), dtype=torch.float64
        ),
        pbc=torch.tensor(np.stack([atoms.pbc for atoms in structures])),
    )


def turned(systems: Systems, matrix: Tensor) -> Systems:
    """Positions and cells times an orthogonal (3, 3) matrix."""
    return replace(systems, positions=systems.positions @ matrix, cell=systems.cell @ matrix)


def rattled(atoms: Atoms, size: float = 0.05, seed: int = SEED) -> Atoms:
    """A copy with every coordinate moved by normal noise of `size` Angstrom."""
    copy = atoms.copy()
    copy.positions += np.random.default_rng(seed).normal(scale=size, size=copy.positions.shape)
    return copy


def adslab(
    adsorbate: str = "CO",
    position: str = "ontop",
    *,
    size: tuple[int, int, int] = (2, 2, 3),
    square: bool = False,
) -> Atoms:
    """An fcc slab of copper with one adsorbate, pbc in the plane, OC20 tags."""
    slab = fcc100("Cu", size, vacuum=8.0) if square else fcc111("Cu", size, vacuum=8.0)
    tags = np.where(slab.get_tags() == 1, 1, 0)
    if adsorbate:
        guest = molecule(adsorbate) if len(adsorbate) > 1 else adsorbate
        add_adsorbate(slab, guest, 1.9, position)
        tags = np.append(tags, np.full(len(slab) - len(tags), 2))
    slab.set_tags(tags)
    slab.pbc = (True, True, False)
    return slab


def cloud(n_atoms: int = 7, seed: int = SEED) -> Atoms:
    """A random molecule of C, N, O and H atoms without any symmetry."""
    rng = np.random.default_rng(seed)
    return Atoms(
        rng.choice([1, 6, 7, 8], size=n_atoms), positions=rng.normal(scale=1.5, size=(n_atoms, 3))
    )


def rotation_z(angle: float) -> Tensor:
    """Rotation of row vectors about z, (3, 3) float64."""
    cos, sin = np.cos(angle), np.sin(angle)
    return torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
