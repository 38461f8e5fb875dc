"""Model Hessians from distances and covalent radii, for the start of a relaxation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocalc.core import elements
from geocalc.core.cells import CellCoordinates
from geocalc.core.systems import Coordinates, Systems
from geocalc.errors import InputError
from geocalc.graphs.neighbors import build_graph, edge_vectors
from geocalc.optim.stacks import Stack, Stacks, as_array, free_rows

# pairs up to this many sums of covalent radii are springs: first neighbors in metals, bonds in
# molecules
REACH = 1.6
# eV/Angstrom^2 at the sum of the radii; with POWER it gives 0.5-1 between metal atoms and 3-10 in
# molecules
STIFFNESS = 2.0
POWER = 8.0
SIDEWAYS = 0.1  # stiffness across a spring as a share of that along it
# eV/Angstrom^2, from every atom to its position; with softer ones adsorbates slid into other basins
ANCHOR = 4.0


# eV, from every strain of a cell to none, for each atom: metals have about 10
STRAIN_ANCHOR = 4.0


def spring_hessians(coordinates: Coordinates) -> Stacks:
    """Hessians of springs between neighbors, over the free rows of each structure.

    The spring of atoms i and j has the stiffness STIFFNESS * ((r_i + r_j) / d_ij) ** POWER, the
    idea of Lindh's model Hessian (Lindh et al., Chem. Phys. Lett. 241, 423 (1995)) with one power
    law for all elements. Where cells relax, a strain stretches the springs.

    Args:
        coordinates: batch at the start of a relaxation; structures, or `CellCoordinates`.
    Returns:
        Symmetric positive definite matrices, eV/Angstrom^2. Fixed components of free rows, strains
        that may not occur and padding are coupled to nothing.
    Raises:
        InputError: the coordinates are of another kind.
    """
    springs = _springs(coordinates)
    found = []
    for place, rows in free_rows(coordinates):
        stack = Stack(place=place, rows=rows, matrix=rows)
        places = torch.as_tensor(stack.places_of_rows(coordinates))
        hessian = _of_atoms(coordinates, places, springs)
        free = torch.cat([~coordinates.fixed, coordinates.fixed.new_zeros((1, 3))])
        free = free[places].reshape(len(places), -1)
        if isinstance(coordinates, CellCoordinates) and bool(coordinates.shapes.any()):
            _add_strains(hessian, coordinates, places, torch.as_tensor(place), springs)
        hessian *= free[:, :, None] * free[:, None, :]
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        anchor = springs.anchor[places].repeat_interleave(3, dim=1)
        diagonal += anchor.where(free, ANCHOR)
        found.append(replace(stack, matrix=as_array(hessian)))
    return Stacks(tuple(found))


@dataclass(frozen=True)
class _Springs:
    """Springs of a batch, each once from either end.

    Attributes:
        receivers, senders: (n_edges,) rows of the atoms.
        owner: (n_edges,) structure of each.
        vectors: (n_edges, 3) Angstrom, between the atoms.
        blocks: (n_edges, 3, 3) force constants, eV/Angstrom^2.
        anchor: (n_rows + 1,) eV/Angstrom^2, added to the diagonal; the last is for padding.
    """

    receivers: Tensor
    senders: Tensor
    owner: Tensor
    vectors: Tensor
    blocks: Tensor
    anchor: Tensor


def _springs(coordinates: Coordinates) -> _Springs:
    """The springs of a batch.

    Raises:
        InputError: the coordinates are of a kind that has no springs.
    """
    anchor = coordinates.positions.new_full((len(coordinates.positions) + 1,), ANCHOR)
    if isinstance(coordinates, CellCoordinates):
        systems, is_atom = coordinates.atoms, coordinates.is_atom
        row_of_atom = torch.nonzero(is_atom).squeeze(1)
        per_atom = STRAIN_ANCHOR / systems.counts[coordinates.system_idx]
        anchor[:-1] = torch.where(is_atom, ANCHOR, per_atom)
    elif isinstance(coordinates, Systems):
        systems = coordinates
        row_of_atom = torch.arange(systems.n_atoms, device=systems.positions.device)
    else:
        raise InputError(
            f"springs are between atoms, and {type(coordinates).__name__} has none; use bfgs"
        )
    radii = torch.from_numpy(elements.covalent_radii()).to(systems.positions.device)[
        systems.numbers
    ]
    graph = build_graph(systems, REACH * 2 * float(radii.max()) + 1e-6)
    vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    lengths, contact = (
        vectors.norm(dim=1).clamp(min=1e-3),
        radii[graph.receivers] + radii[graph.senders],
    )
    near = torch.nonzero(lengths < REACH * contact).squeeze(1)
    lengths, contact, vectors = lengths[near], contact[near], vectors[near]
    stiffness = STIFFNESS * (contact / lengths).clamp(max=2.0) ** POWER
    unit = vectors / lengths[:, None]
    across = SIDEWAYS * torch.eye(3, dtype=unit.dtype, device=unit.device)
    blocks = stiffness[:, None, None] * (
        (1 - SIDEWAYS) * unit[:, :, None] * unit[:, None, :] + across
    )
    receivers = graph.receivers[near]
    return _Springs(
        receivers=row_of_atom[receivers],
        senders=row_of_atom[graph.senders[near]],
        owner=systems.system_idx[receivers],
        vectors=vectors,
        blocks=blocks,
        anchor=anchor,
    )


def _of_atoms(coordinates: Coordinates, places: Tensor, springs: _Springs) -> Tensor:
    """Hessians (k, 3 size, 3 size) of the structures of a stack by their atoms.

    Args:
        coordinates: batch.
        places: (k, size) of the free rows in the batch; the number of rows for padding.
        springs: of the batch.
    """
    n, (k, size) = len(coordinates.positions), places.shape
    blocks = springs.blocks
    slot = _slots(places, n)
    i, j = slot[springs.receivers], slot[springs.senders]
    both = torch.nonzero((i >= 0) & (j >= 0)).squeeze(1)
    pair = i[both] * size + j[both] % size
    hessian = blocks.new_zeros((k * size * size, 3, 3)).index_add_(0, pair, -blocks[both])
    hessian = hessian.reshape(k, size, size, 3, 3)
    own = torch.arange(size, device=places.device)
    hessian[:, own, own] += blocks.new_zeros((n + 1, 3, 3)).index_add_(
        0, springs.receivers, blocks
    )[places]
    return hessian.permute(0, 1, 3, 2, 4).reshape(k, 3 * size, 3 * size)


def _slots(places: Tensor, n: int) -> Tensor:
    """Place of each row among the k times size of a stack, -1 for others, (n + 1,)."""
    slot = torch.full((n + 1,), -1, device=places.device)
    slot[places.reshape(-1)] = torch.arange(places.numel(), device=places.device)
    slot[n] = -1
    return slot


def _add_strains(
    hessian: Tensor, coordinates: CellCoordinates, places: Tensor, place: Tensor, springs: _Springs
) -> None:
    """Add the springs that strains stretch to Hessians of atoms, (k, 3 size, 3 size).

    A strain S, times the number of atoms N, moves the ends of a spring d apart by S d / N.

    Args:
        hessian: changed in place.
        coordinates: batch.
        places: (k, size) of the free rows in the batch; the number of rows for padding.
        place: (k,) of the structures in the batch.
        springs: of the batch.
    """
    n, k = coordinates.n_systems, len(places)
    counts = coordinates.start.counts[springs.owner]
    lever = springs.vectors / counts[:, None]
    # rows and columns of a strain are flattened to nine
    pull = springs.blocks[:, :, None, :] * lever[:, None, :, None]
    stretch = 0.5 * pull[:, :, :, :, None] * lever[:, None, None, None, :]
    on_strain = stretch.new_zeros((n, 9, 9)).index_add_(0, springs.owner, stretch.reshape(-1, 9, 9))
    coupling = pull.new_zeros((len(coordinates.positions) + 1, 9, 3)).index_add_(
        0, springs.receivers, -pull.reshape(-1, 9, 3)
    )
    shapes = coordinates.shapes
    on_strain = shapes @ on_strain[place] @ shapes
    coupling = (shapes @ coupling)[places].permute(0, 2, 1, 3).reshape(k, 9, -1)
    # which component of a strain each component of a stack is
    axis = torch.cumsum(~coordinates.is_atom, 0) % 3  # 1, 2, 0 for the rows of a strain
    axis = torch.where(coordinates.is_atom, -9, (axis + 2) % 3)
    axis = torch.cat([axis, axis.new_full((1,), -9)])[places]
    own = torch.arange(9, device=places.device)
    component = (3 * axis[:, :, None] + own[:3]).reshape(k, -1, 1)
    is_strain = (component == own).to(coupling)
    mixed = is_strain @ coupling
    hessian += mixed + mixed.transpose(1, 2) + is_strain @ on_strain @ is_strain.transpose(1, 2)
