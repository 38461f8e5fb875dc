"""Batches turned, moved, stored otherwise, taken apart and repeated; pure functions that keep
everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from geocalc.core.systems import Systems, concatenate, select

# integer, determinant 1 or -1
IN_PLANE_BASES = (((1, 1), (0, 1)), ((2, 1), (1, 1)), ((0, 1), (1, 0)), ((-1, 0), (0, 1)))
Basis = tuple[tuple[int, int], tuple[int, int]]


def singles(systems: Systems) -> Iterator[Systems]:
    """Every structure of a batch as a batch of one, in order."""
    for k in range(systems.n_systems):
        yield select(
            systems, systems, torch.arange(systems.n_systems, device=systems.system_idx.device) == k
        )


def chunks(systems: Systems, size: int) -> Iterator[Systems]:
    """The structures of a batch in batches of at most `size`, in order."""
    place = torch.arange(systems.n_systems, device=systems.system_idx.device)
    for start in range(0, systems.n_systems, size):
        yield select(systems, systems, (place >= start) & (place < start + size))


def transformed(systems: Systems, matrices: Tensor) -> Systems:
    """Positions and cells times a matrix for each structure.

    Args:
        systems: batch.
        matrices: (n_systems, 3, 3); orthogonal ones turn or reflect, others deform.
    Returns:
        A new batch; row vectors, so `positions @ matrix`.
    """
    positions = torch.einsum("ai,aij->aj", systems.positions, matrices[systems.system_idx])
    return replace(systems, positions=positions, cell=systems.cell @ matrices)


def reflections(normals: Tensor) -> Tensor:
    """Matrices (n, 3, 3) that reflect row vectors in the planes across `normals` (n, 3), which need
    no unit length.
    """
    unit = normals / normals.norm(dim=1, keepdim=True)
    return torch.eye(3).to(unit) - 2 * unit[:, :, None] * unit[:, None, :]


def translated(systems: Systems, shifts: Tensor) -> Systems:
    """Every atom moved by the shift of its structure, (n_systems, 3) Angstrom; cells stay."""
    return replace(systems, positions=systems.positions + shifts[systems.system_idx])


def reordered(systems: Systems, order: Tensor) -> Systems:
    """Atoms in another order.

    Args:
        systems: batch.
        order: (n_atoms,) int64, the former place of each atom, in its own structure; see
            `random_order`.
    """
    rows = {
        name: getattr(systems, name)[order] for name in ("positions", "numbers", "tags", "fixed")
    }
    return replace(
        systems, **rows, projector=None if systems.projector is None else systems.projector[order]
    )


def random_order(systems: Systems, generator: torch.Generator) -> Tensor:
    """A random order of the atoms of each structure, (n_atoms,) int64; the generator is the CPU's."""
    key = torch.rand(systems.n_atoms, generator=generator, dtype=torch.float64)
    return torch.argsort(systems.system_idx + key.to(systems.positions.device))


def rewrapped(systems: Systems, images: Tensor) -> Systems:
    """Atoms stored in other periodic images.

    Args:
        systems: batch.
        images: (n_atoms, 3) whole lattice vectors that each atom is moved by; not along what is not
            periodic.
    """
    images = images.to(systems.positions) * systems.pbc[systems.system_idx]
    offsets = torch.einsum("ai,aij->aj", images, systems.cell[systems.system_idx])
    return replace(systems, positions=systems.positions + offsets)


def in_other_basis(systems: Systems, basis: Basis) -> Systems:
    """The same crystals with other lattice vectors; positions stay.

    Args:
        systems: batch.
        basis: integers of determinant 1 or -1 that make the new vectors of the old ones, the first
            two periodic ones of each structure; what has fewer is left as it is.
    """
    cell = systems.cell.clone()
    for k, periodic in enumerate(systems.pbc.tolist()):
        axes = [axis for axis in range(3) if periodic[axis]][:2]
        if len(axes) == 2:
            cell[k, axes] = (
                torch.tensor(basis, dtype=cell.dtype, device=cell.device) @ systems.cell[k, axes]
            )
    return replace(systems, cell=cell)


def supercell(systems: Systems, repeats: int) -> tuple[Systems, Tensor]:
    """Repeat every structure along its first two periodic vectors.

    Args:
        systems: batch.
        repeats: along each of those vectors; a structure without periodicity is left as it is.
    Returns:
        The larger batch, image after image, and for each of its atoms the number of the original,
        (n_atoms,) int64.
    """
    parts, origins = [], []
    for k, (single, periodic) in enumerate(
        zip(singles(systems), systems.pbc.tolist(), strict=True)
    ):
        axes = [axis for axis in range(3) if periodic[axis]][:2]
        counts = torch.tensor([repeats if axis in axes else 1 for axis in range(3)])
        images = torch.cartesian_prod(*(torch.arange(int(count)) for count in counts)).to(
            single.cell
        )
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
