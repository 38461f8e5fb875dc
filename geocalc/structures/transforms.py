"""Transformations of batches, such as rotations, translations, re-wrapping and supercells.

Pure functions that preserve all other properties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from geocalc.core.systems import Systems, concatenate, select

# integer matrices of determinant 1 or -1
IN_PLANE_BASES = (((1, 1), (0, 1)), ((2, 1), (1, 1)), ((0, 1), (1, 0)), ((-1, 0), (0, 1)))
InPlaneBasis = tuple[tuple[int, int], tuple[int, int]]


def singles(systems: Systems) -> Iterator[Systems]:
    """Generate every structure of a batch as a batch of one, in order."""
    for k in range(systems.n_systems):
        yield select(
            systems, systems, torch.arange(systems.n_systems, device=systems.system_idx.device) == k
        )


def chunks(systems: Systems, size: int) -> Iterator[Systems]:
    """Generate batches of at most `size` structures, in order."""
    number = torch.arange(systems.n_systems, device=systems.system_idx.device)
    for start in range(0, systems.n_systems, size):
        yield select(systems, systems, (number >= start) & (number < start + size))


def transformed(systems: Systems, matrices: Tensor) -> Systems:
    """Multiply the positions and cell of each structure by a matrix.

    Args:
        systems: the batch.
        matrices: (n_systems, 3, 3), orthogonal for rotations and reflections; others deform. Row
            vectors are multiplied from the left, `positions @ matrix`.
    """
    positions = torch.einsum("ai,aij->aj", systems.positions, matrices[systems.system_idx])
    return replace(systems, positions=positions, cell=systems.cell @ matrices)


def reflections(normals: Tensor) -> Tensor:
    """Return matrices (n, 3, 3) that reflect row vectors in planes.

    Args:
        normals: (n, 3) normals of the planes, of any length.
    """
    unit = normals / normals.norm(dim=1, keepdim=True)
    return torch.eye(3).to(unit) - 2 * unit[:, :, None] * unit[:, None, :]


def translated(systems: Systems, shifts: Tensor) -> Systems:
    """Translate all atoms of each structure by its shift (n_systems, 3) Angstrom.

    Cells are unchanged.
    """
    return replace(systems, positions=systems.positions + shifts[systems.system_idx])


def reordered(systems: Systems, order: Tensor) -> Systems:
    """Reorder the atoms.

    Args:
        systems: the batch.
        order: (n_atoms,) int64, previous index of each atom, within its structure; see
            `random_order`.
    """
    rows = {
        name: getattr(systems, name)[order] for name in ("positions", "numbers", "tags", "fixed")
    }
    return replace(
        systems, **rows, projector=None if systems.projector is None else systems.projector[order]
    )


def random_order(systems: Systems, generator: torch.Generator) -> Tensor:
    """Return a random order of the atoms of each structure, (n_atoms,) int64.

    Args:
        systems: the batch.
        generator: generator on the CPU.
    """
    key = torch.rand(systems.n_atoms, generator=generator, dtype=torch.float64)
    return torch.argsort(systems.system_idx + key.to(systems.positions.device))


def rewrapped(systems: Systems, images: Tensor) -> Systems:
    """Move atoms to other periodic images.

    Args:
        systems: the batch.
        images: (n_atoms, 3) integer cell offsets; ignored along open directions.
    """
    images = images.to(systems.positions) * systems.pbc[systems.system_idx]
    offsets = torch.einsum("ai,aij->aj", images, systems.cell[systems.system_idx])
    return replace(systems, positions=systems.positions + offsets)


def with_basis(systems: Systems, basis: InPlaneBasis) -> Systems:
    """Replace the in-plane lattice vectors by another basis of the same lattice.

    Positions are unchanged.

    Args:
        systems: the batch.
        basis: integer matrix of determinant 1 or -1 from the first two periodic lattice vectors to
            the new ones; structures with fewer are unchanged.
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
    """Repeat every structure along its first two periodic lattice vectors.

    Args:
        systems: the batch.
        repeats: number of cells along each of these vectors; structures without periodicity are
            unchanged.
    Returns:
        The larger batch, image after image, and the original index of each of its atoms, (n_atoms,)
        int64.
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
