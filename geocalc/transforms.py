"""Batches turned, taken apart and repeated; pure functions that keep everything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from geocalc.systems import Systems, concatenate, select


def singles(systems: Systems) -> Iterator[Systems]:
    """Every structure of a batch as a batch of one, in order."""
    for k in range(systems.n_systems):
        yield select(systems, systems, torch.arange(systems.n_systems, device=systems.system_idx.device) == k)


def turned(systems: Systems, matrices: Tensor) -> Systems:
    """Positions and cells times a matrix for each structure.

    Args:
        systems: batch. matrices: (n_systems, 3, 3); orthogonal ones turn or reflect, others deform.
    Returns:
        A new batch; row vectors, so `positions @ matrix`.
    """
    positions = torch.einsum("ai,aij->aj", systems.positions, matrices[systems.system_idx])
    return replace(systems, positions=positions, cell=systems.cell @ matrices)


def supercell(systems: Systems, repeats: int) -> tuple[Systems, Tensor]:
    """Repeat every structure along its first two periodic vectors.

    Args:
        systems: batch. repeats: along each of those vectors; a structure without periodicity is left as it is.
    Returns:
        The larger batch, image after image, and for each of its atoms the number of the original, (n_atoms,) int64.
    """
    parts, origins = [], []
    for k, (single, periodic) in enumerate(zip(singles(systems), systems.pbc.tolist(), strict=True)):
        axes = [axis for axis in range(3) if periodic[axis]][:2]
        counts = torch.tensor([repeats if axis in axes else 1 for axis in range(3)])
        images = torch.cartesian_prod(*(torch.arange(int(count)) for count in counts)).to(single.cell)
        rows = torch.arange(single.n_atoms, device=images.device).repeat(len(images))
        offsets = (images @ single.cell[0]).repeat_interleave(single.n_atoms, dim=0)
        parts.append(
            Systems(
                positions=single.positions[rows] + offsets,
                numbers=single.numbers[rows],
                tags=single.tags[rows],
                fixed=single.fixed[rows],
                system_idx=torch.zeros_like(rows),
                cell=single.cell * counts.to(single.cell)[:, None],
                pbc=single.pbc,
            )
        )
        origins.append(torch.nonzero(systems.system_idx == k)[:, 0][rows])
    return concatenate(parts), torch.cat(origins)
