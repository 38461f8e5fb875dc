"""Model Hessians from distances and covalent radii, for the start of a relaxation."""

from __future__ import annotations

import numpy as np
import torch

from geocalc.core import elements
from geocalc.core.systems import Systems
from geocalc.graphs.neighbors import build_graph, edge_vectors
from geocalc.optim.base import FreeComponents

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


def spring_hessians(systems: Systems) -> tuple[np.ndarray, ...]:
    """Hessians of springs between neighbors, over the free components of each structure.

    The spring of atoms i and j has the stiffness STIFFNESS * ((r_i + r_j) / d_ij) ** POWER, the
    idea of Lindh's model Hessian (Lindh et al., Chem. Phys. Lett. 241, 423 (1995)) with one power
    law for all elements.

    Args:
        systems: batch of structures at the start of a relaxation.
    Returns:
        One symmetric positive definite (n_free, n_free) float64 array per structure, eV/Angstrom^2,
        in the order of `geocalc.optim.base.FreeComponents`.
    """
    radii = torch.from_numpy(elements.covalent_radii()).to(systems.positions.device)[
        systems.numbers
    ]
    graph = build_graph(systems, REACH * 2 * float(radii.max()) + 1e-6)
    vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    lengths, contact = (
        vectors.norm(dim=1).clamp(min=1e-3),
        radii[graph.receivers] + radii[graph.senders],
    )
    near = lengths < REACH * contact
    stiffness = STIFFNESS * (contact[near] / lengths[near]).clamp(max=2.0) ** POWER
    unit = vectors[near] / lengths[near, None]
    across = SIDEWAYS * torch.eye(3, dtype=unit.dtype, device=unit.device)
    blocks = stiffness[:, None, None] * (
        (1 - SIDEWAYS) * unit[:, :, None] * unit[:, None, :] + across
    )
    return _assemble(
        systems, *(t.cpu().numpy() for t in (graph.receivers[near], graph.senders[near], blocks))
    )


def _assemble(
    systems: Systems, receivers: np.ndarray, senders: np.ndarray, blocks: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Sum blocks of directed edges into a dense array per structure.

    Args:
        systems: batch of structures.
        receivers, senders: (n_edges,) atoms.
        blocks: (n_edges, 3, 3) eV/Angstrom^2.
    Returns:
        One (n_free, n_free) array per structure, over its free components.
    """
    free = FreeComponents.of(systems)
    place = np.full((systems.n_atoms, 3), -1)
    place.reshape(-1)[free.index] = np.concatenate([np.arange(size) for size in free.sizes])
    edge_ends = np.searchsorted(receivers, free.row_starts)
    hessians = []
    for size, start, end in zip(free.sizes, edge_ends[:-1], edge_ends[1:], strict=True):
        i, j, block = place[receivers[start:end]], place[senders[start:end]], blocks[start:end]
        rows = np.concatenate(
            [
                np.broadcast_to(i[:, :, None], block.shape),
                np.broadcast_to(i[:, :, None], block.shape),
            ]
        )
        columns = np.concatenate(
            [
                np.broadcast_to(i[:, None, :], block.shape),
                np.broadcast_to(j[:, None, :], block.shape),
            ]
        )
        values, inside = np.concatenate([block, -block]), (rows >= 0) & (columns >= 0)
        flat = np.bincount(
            rows[inside] * size + columns[inside], values[inside], minlength=size * size
        )
        hessians.append(flat.reshape(size, size) + ANCHOR * np.eye(size))
    return tuple(hessians)
