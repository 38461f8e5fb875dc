"""Model Hessians from distances and covalent radii, for the start of a relaxation."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geocalc.core import elements
from geocalc.core.systems import Systems
from geocalc.graphs.neighbors import Graph, build_graph, edge_vectors
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


def spring_hessians(systems: Systems) -> Stacks:
    """Hessians of springs between neighbors, over the free atoms of each structure.

    The spring of atoms i and j has the stiffness STIFFNESS * ((r_i + r_j) / d_ij) ** POWER, the
    idea of Lindh's model Hessian (Lindh et al., Chem. Phys. Lett. 241, 423 (1995)) with one power
    law for all elements.

    Args:
        systems: batch of structures at the start of a relaxation.
    Returns:
        Symmetric positive definite matrices, eV/Angstrom^2. Fixed components of free atoms and
        padding are coupled to nothing.
    """
    graph, blocks = _springs(systems)
    on_atom = blocks.new_zeros((systems.n_atoms, 3, 3)).index_add_(0, graph.receivers, blocks)
    found = []
    for place, rows in free_rows(systems):
        places = torch.as_tensor(Stack(place=place, rows=rows, matrix=rows).places_of_rows(systems))
        found.append(
            Stack(
                place=place,
                rows=rows,
                matrix=as_array(_assembled(systems, places, graph, on_atom, blocks)),
            )
        )
    return Stacks(tuple(found))


def _springs(systems: Systems) -> tuple[Graph, Tensor]:
    """Pairs of atoms that are springs, and their force constants (n_edges, 3, 3), eV/Angstrom^2."""
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
    return replace(
        graph, receivers=graph.receivers[near], senders=graph.senders[near], shifts=graph.shifts[near]
    ), blocks


def _assembled(
    systems: Systems, places: Tensor, graph: Graph, on_atom: Tensor, blocks: Tensor
) -> Tensor:
    """Hessians (k, 3 size, 3 size) of the structures of a stack.

    Args:
        systems: batch of structures.
        places: (k, size) of the free atoms in the batch; the number of atoms for padding.
        graph: edges that are springs.
        on_atom: (n_atoms, 3, 3) eV/Angstrom^2, sum over the springs of each atom.
        blocks: (n_edges, 3, 3) eV/Angstrom^2.
    """
    n, (k, size) = systems.n_atoms, places.shape
    # place of each atom among the k times size, -1 for others
    slot = torch.full((n + 1,), -1, device=places.device)
    slot[places.reshape(-1)] = torch.arange(k * size, device=places.device)
    slot[n] = -1
    i, j = slot[graph.receivers], slot[graph.senders]
    both = torch.nonzero((i >= 0) & (j >= 0)).squeeze(1)
    pair = i[both] * size + j[both] % size
    hessian = blocks.new_zeros((k * size * size, 3, 3)).index_add_(0, pair, -blocks[both])
    hessian = hessian.reshape(k, size, size, 3, 3)
    own = torch.arange(size, device=places.device)
    padded = torch.cat([on_atom, on_atom.new_zeros((1, 3, 3))])
    hessian[:, own, own] += padded[places]
    free = torch.cat([~systems.fixed, systems.fixed.new_zeros((1, 3))])[places].reshape(k, -1)
    flat = hessian.permute(0, 1, 3, 2, 4).reshape(k, 3 * size, 3 * size)
    flat = flat * free[:, :, None] * free[:, None, :]
    flat.diagonal(dim1=1, dim2=2).add_(ANCHOR)
    return flat
