"""Neighbour lists: vesin behind one function.

Edge convention, everywhere in geocalc: `edge_vec = positions[senders] - positions[receivers] + shifts @ cell`; receivers are
the centres, senders their neighbours, and edges are sorted by receiver.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
import vesin
from torch import Tensor

from geocalc.errors import InputError
from geocalc.systems import Systems

TIE_TOLERANCE = 1e-4  # Angstrom; neighbours this close to the truncation radius are tied and all kept
_local = threading.local()


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Edges of a batch of structures.

    Attributes:
        senders: (n_edges,) int64, neighbour j.
        receivers: (n_edges,) int64, centre i, ascending.
        shifts: (n_edges, 3) float64, integer cell offsets of the neighbour's image.
        n_truncated: edges left out by `max_neighbors`.
    """

    senders: Tensor
    receivers: Tensor
    shifts: Tensor
    n_truncated: int = 0

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return self.senders.shape[0]


def build_graph(systems: Systems, cutoff: float, max_neighbors: int | None = None, skin: float = 0.0) -> Graph:
    """Connect every atom to its neighbours within `cutoff`, periodic images included.

    Args:
        systems: batch of structures; positions may lie outside the cell.
        cutoff: radius in Angstrom, positive; edges of exactly this length are left out.
        max_neighbors: keep at most this many nearest neighbours of each atom; neighbours tied with the last one are all kept,
            so the graph keeps the symmetry of the structure.
        skin: extra radius in Angstrom, for lists that are reused while atoms move less than half of it.
    Returns:
        Graph, sorted by receiver.
    Raises:
        InputError: `cutoff` is not positive, a position is not finite, or a periodic cell has zero volume.
    Source: cell-list search of vesin; Allen and Tildesley (2017), sec. 5.3.
    """
    if not cutoff > 0:
        raise InputError(f"cutoff must be a positive length in Angstrom, got {cutoff}")
    positions = systems.positions.detach().cpu().numpy()
    cells, pbc = systems.cell.detach().cpu().numpy(), systems.pbc.cpu().numpy()
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise InputError(f"position of atom {bad} is not a number: {positions[bad].tolist()}; check the file it came from")
    start = 0
    parts, truncated = [], 0
    for count, cell, periodic in zip(systems.counts.tolist(), cells, pbc, strict=True):
        receivers, senders, shifts, lengths = _search(positions[start : start + count], cell, periodic, cutoff + skin)
        order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], senders, receivers))
        if max_neighbors is not None:
            keep = _nearest(receivers[order], lengths[order], count, max_neighbors)
            truncated += len(order) - int(keep.sum())
            order = order[keep]
        parts.append((receivers[order] + start, senders[order] + start, shifts[order]))
        start += count
    device = systems.positions.device
    receivers, senders, shifts = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Graph(
        senders=torch.from_numpy(senders).to(device),
        receivers=torch.from_numpy(receivers).to(device),
        shifts=torch.from_numpy(shifts).to(device),
        n_truncated=truncated,
    )


def edge_vectors(positions: Tensor, cell: Tensor, system_idx: Tensor, graph: Graph) -> Tensor:
    """Vectors from centre to neighbour, (n_edges, 3) Angstrom; differentiable in positions and cell."""
    vec = positions[graph.senders] - positions[graph.receivers]
    offset = torch.einsum("ei,eij->ej", graph.shifts.to(cell.dtype), cell[system_idx[graph.receivers]])
    return vec + offset


def _search(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of one structure: receivers, senders (n,), shifts (n, 3) and lengths (n,), unsorted."""
    if len(positions) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, np.zeros((0, 3)), np.zeros(0)
    if pbc.any():
        cell = _complete(cell, pbc)
    search = _searcher(radius)
    i, j, shifts, lengths = search.compute(positions, cell, pbc.tolist(), "ijSd")
    inside = lengths < radius
    return i[inside].astype(np.int64), j[inside].astype(np.int64), shifts[inside].astype(np.float64), lengths[inside]


def _searcher(radius: float) -> vesin.NeighborList:
    """One searcher per radius and thread: creating one costs more than a search of a small structure."""
    cache: dict[float, vesin.NeighborList] = _local.__dict__.setdefault("searchers", {})
    if radius not in cache:
        cache[radius] = vesin.NeighborList(cutoff=radius, full_list=True, n_threads=1)
    return cache[radius]


def _complete(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Give directions without periodicity a unit vector normal to the others, and check the periodic ones."""
    cell = cell.copy()
    norms = np.linalg.norm(cell, axis=1)
    if (norms[pbc] < 1e-6).any():
        axis = int(np.flatnonzero(pbc & (norms < 1e-6))[0])
        raise InputError(f"cell vector {'abc'[axis]} is zero but pbc is on along it; set the cell or pbc=False")
    missing = [k for k in range(3) if norms[k] < 1e-6]
    if missing:
        _, _, basis = np.linalg.svd(np.delete(cell, missing, axis=0)) if len(missing) < 3 else (0, 0, np.eye(3))
        for k, vector in zip(missing, basis[3 - len(missing) :], strict=True):
            cell[k] = vector
    if abs(np.linalg.det(cell)) < 1e-9 * max(1.0, float(norms.max())) ** 3:
        raise InputError(f"the periodic cell {cell.tolist()} has zero volume; its lattice vectors must be independent")
    return cell


def _nearest(receivers: np.ndarray, lengths: np.ndarray, n_atoms: int, max_neighbors: int) -> np.ndarray:
    """Mask (n_edges,) of the `max_neighbors` nearest of each receiver, ties with the last one included."""
    by_length = np.lexsort((lengths, receivers))
    first = np.searchsorted(receivers, np.arange(n_atoms))
    count = np.diff(np.append(first, len(receivers)))
    last = first + np.minimum(count, max_neighbors) - 1
    radius = np.full(n_atoms, np.inf)
    has = count > max_neighbors
    radius[has] = lengths[by_length[last[has]]] + TIE_TOLERANCE
    return lengths <= radius[receivers]
