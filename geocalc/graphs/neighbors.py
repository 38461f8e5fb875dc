"""Neighbor lists of batches of structures, computed with vesin.

Edge convention, everywhere in geocalc: `edge_vec = positions[senders] - positions[receivers] +
shifts @ cell`; receivers are the centers, senders their neighbors, and edges are sorted by
receiver.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import vesin
from torch import Tensor

from geocalc.core.systems import Systems
from geocalc.errors import InputError
from geocalc.graphs.truncation import (
    NO_EDGES,
    Edges,
    TruncatedEdges,
    Truncation,
    join_edges,
    truncate,
    truncate_each,
)

# largest coordinate in Angstrom; beyond it positions are not exact to 1e-10 Angstrom
MAX_COORDINATE = 1e6
# largest extent of a structure in cutoffs; vesin uses at most 1e5 bins, and aborts the process if
# that leaves less than one bin in a direction
MAX_EXTENT = 300
# largest number of periodic images within the cutoff of an atom; small cells with long cutoffs have
# hundreds, damaged cells would fill the memory
MAX_IMAGES = 1e5
_local = threading.local()


@dataclass(frozen=True, kw_only=True)
class SmoothTruncation:
    """Data for the edge weights of smooth truncation; see `geocalc.graphs.truncation`.

    Attributes:
        radii: (n_atoms,) float64 Angstrom, truncation radius of each atom; infinite for an atom
            that keeps all its neighbors.
        n_full: (n_atoms,) int64, number of neighbors with weight one.
        senders: (n_shell_edges,) int64, neighbors in the shell, whose weight is below one.
        receivers: (n_shell_edges,) int64, centers of these edges.
        shifts: (n_shell_edges, 3) float64, cell offsets of these edges, as in `Graph`.
        max_neighbors: largest number of neighbors.
        cutoff: Angstrom; infinite without a cutoff.
    """

    radii: Tensor
    n_full: Tensor
    senders: Tensor
    receivers: Tensor
    shifts: Tensor
    max_neighbors: int
    cutoff: float

    def to(self, device: torch.device) -> SmoothTruncation:
        """Return a copy on another device."""
        return replace(
            self,
            radii=self.radii.to(device),
            n_full=self.n_full.to(device),
            senders=self.senders.to(device),
            receivers=self.receivers.to(device),
            shifts=self.shifts.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Edges of a batch of structures.

    Attributes:
        senders: (n_edges,) int64, neighbors j.
        receivers: (n_edges,) int64, centers i, ascending.
        shifts: (n_edges, 3) float64, integer cell offsets of the neighbor's image.
        n_truncated: number of edges within the cutoff that `max_neighbors` removed; 0 for graphs
            without a cutoff.
        smooth: data for the edge weights of smooth truncation, else None.
    """

    senders: Tensor
    receivers: Tensor
    shifts: Tensor
    n_truncated: int = 0
    smooth: SmoothTruncation | None = None

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return self.senders.shape[0]

    def to(self, device: torch.device) -> Graph:
        """Return a copy on another device."""
        return Graph(
            senders=self.senders.to(device),
            receivers=self.receivers.to(device),
            shifts=self.shifts.to(device),
            n_truncated=self.n_truncated,
            smooth=None if self.smooth is None else self.smooth.to(device),
        )

    def where(self, kept: Tensor) -> Graph:
        """Return the edges selected by a mask (n_edges,) bool."""
        return replace(
            self,
            senders=self.senders[kept],
            receivers=self.receivers[kept],
            shifts=self.shifts[kept],
        )


def build_graph(
    systems: Systems,
    cutoff: float,
    max_neighbors: int | None = None,
    truncation: Truncation = Truncation.PER_ATOM,
) -> Graph:
    """Connect every atom to its neighbors within a cutoff, including periodic images.

    Args:
        systems: batch of structures; positions may lie outside the cell.
        cutoff: radius in Angstrom, positive; edges of exactly this length are excluded.
        max_neighbors: largest number of neighbors of an atom; the nearest are kept. All neighbors
            tied with the last one are kept, so the graph has the symmetry of the structure. None
            keeps all.
        truncation: how neighbors beyond `max_neighbors` are removed; see
            `geocalc.graphs.truncation`.
    Returns:
        Graph, sorted by receiver.
    Raises:
        InputError: `cutoff` or `max_neighbors` is not positive, a position is not finite, a
            periodic cell has zero volume, or positions or cells are too large or too small for a
            search.
    Source: cell-list search of vesin; Allen and Tildesley (2017), sec. 5.3.
    """
    _check_settings(cutoff, max_neighbors)
    lists = (search(*structure, cutoff) for structure in split_structures(systems))
    parts = truncate_each(lists, systems.counts.tolist(), max_neighbors, truncation, cutoff)
    return assemble_graph(parts, systems, max_neighbors, cutoff)


def count_edges(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> int:
    """Count the directed edges of one structure.

    Equals the number of edges of its graph, except for edges exactly as long as the cutoff.

    Args:
        positions: (n_atoms, 3) Angstrom.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
        cutoff: Angstrom.
    Raises:
        InputError: as `build_graph`.
    """
    _check_settings(cutoff, None)
    if len(positions) == 0:
        return 0
    completed = checked_cell(positions, cell, pbc, cutoff)
    return len(_searcher(cutoff).compute(positions, completed, pbc.tolist(), "P")[0])


class NeighborCache:
    """Neighbor lists with a skin, reused while no atom of a structure has moved by half the skin.

    The stored list of a structure contains all edges shorter than the cutoff plus the skin. In
    every call it is reduced to the edges shorter than the cutoff, so the graph equals that of
    `build_graph`. Structures may leave or join the batch; a list is kept as long as its structure
    is part of the next call.

    Args:
        cutoff: radius in Angstrom.
        max_neighbors: as in `build_graph`.
        skin: additional radius in Angstrom; with 0 every motion causes a new search.
        truncation: as in `build_graph`.
    Raises:
        InputError: `cutoff` or `max_neighbors` is not positive, or `skin` is negative.
    Source: Verlet (1967), the neighbor list with a skin.
    """

    def __init__(
        self,
        cutoff: float,
        max_neighbors: int | None = None,
        skin: float = 0.5,
        truncation: Truncation = Truncation.PER_ATOM,
    ) -> None:
        _check_settings(cutoff, max_neighbors)
        if not 0 <= skin < np.inf:
            raise InputError(f"skin must be zero or a positive length in Angstrom, got {skin}")
        self.cutoff, self.max_neighbors, self.skin, self.truncation = (
            cutoff,
            max_neighbors,
            skin,
            truncation,
        )
        self.n_searches = 0
        self._stored: dict[bytes, list[_StoredList]] = {}

    def __call__(self, systems: Systems) -> Graph:
        """Return the graph of a batch.

        Raises:
            InputError: as `build_graph`.
        """
        structures, previous = split_structures(systems), self._stored
        stored: dict[bytes, list[_StoredList]] = {}
        lists = []
        for positions, cell, pbc in structures:
            key = cell.tobytes() + pbc.tobytes()
            valid = next(
                (k for k in previous.get(key, ()) if self._is_valid(k.positions, positions)), None
            )
            lists.append(valid or self._search(positions, cell, pbc))
            stored.setdefault(key, []).append(lists[-1])
        self._stored = stored
        edges = join_edges([k.edges for k in lists], [len(k.positions) for k in lists])
        offsets = np.concatenate([NO_EDGES.shifts, *(k.offsets for k in lists)])
        positions = systems.positions.detach().cpu().numpy()
        vectors = (
            positions.take(edges.senders, axis=0)
            - positions.take(edges.receivers, axis=0)
            + offsets
        )
        lengths = np.sqrt(np.einsum("ei,ei->e", vectors, vectors))
        edges = replace(edges, lengths=lengths).take(lengths < self.cutoff)
        truncated = truncate(
            edges, systems.n_atoms, self.max_neighbors, self.truncation, self.cutoff
        )
        return assemble_graph([truncated], systems, self.max_neighbors, self.cutoff)

    def _search(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> _StoredList:
        """Search the neighbors of one structure within the cutoff plus the skin."""
        self.n_searches += 1
        edges = search(positions, cell, pbc, self.cutoff + self.skin)
        return _StoredList(positions=positions.copy(), edges=edges, offsets=edges.shifts @ cell)

    def _is_valid(self, old: np.ndarray, new: np.ndarray) -> bool:
        """Whether the list computed at positions `old` contains every edge at positions `new`."""
        if old.shape != new.shape:
            return False
        displacement = new - old
        largest = float(np.einsum("ai,ai->a", displacement, displacement).max(initial=0.0))
        return largest == 0.0 or largest < (self.skin / 2) ** 2


@dataclass(frozen=True, kw_only=True)
class _StoredList:
    """Neighbor list of one structure.

    Attributes:
        positions: (n_atoms, 3) Angstrom, at which the list was computed.
        edges: edges shorter than the cutoff plus the skin.
        offsets: (n_edges, 3) Angstrom, `shifts @ cell`.
    """

    positions: np.ndarray
    edges: Edges
    offsets: np.ndarray


def _check_settings(cutoff: float, max_neighbors: int | None) -> None:
    if not 0 < cutoff < np.inf:
        raise InputError(f"cutoff must be a positive length in Angstrom, got {cutoff}")
    if max_neighbors is not None and max_neighbors < 1:
        raise InputError(
            f"max_neighbors must be at least 1, or None for no limit, got {max_neighbors}"
        )


def split_structures(systems: Systems) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the positions, cell and pbc of each structure of a batch as arrays.

    Raises:
        InputError: a position is not finite.
    """
    positions = systems.positions.detach().cpu().numpy()
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise InputError(
            f"the position of atom {bad} is {positions[bad].tolist()}, expected finite numbers;"
            " check the input file"
        )
    cells, pbc = systems.cell.detach().cpu().numpy(), systems.pbc.cpu().numpy()
    ends = systems.counts.cumsum(0).tolist()
    return [
        (positions[start:end], cells[k], pbc[k])
        for k, (start, end) in enumerate(pairwise([0, *ends]))
    ]


def assemble_graph(
    parts: Sequence[TruncatedEdges], systems: Systems, max_neighbors: int | None, cutoff: float
) -> Graph:
    """Combine the truncated edges of single structures, or of the whole batch, into a graph.

    Args:
        parts: truncated edges of each structure, or one item for the whole batch.
        systems: the batch.
        max_neighbors: largest number of neighbors that truncation allowed, or None.
        cutoff: Angstrom; infinite without a cutoff.
    """
    device = systems.positions.device
    n_atoms = systems.counts.tolist() if len(parts) == systems.n_systems else [systems.n_atoms]
    edges = join_edges([part.edges for part in parts], n_atoms)
    smooth = None
    radii = [part.radii for part in parts if part.radii is not None]
    if radii and max_neighbors is not None:
        shell = join_edges([part.shell for part in parts if part.shell is not None], n_atoms)
        smooth = SmoothTruncation(
            radii=torch.from_numpy(np.concatenate(radii)),
            n_full=torch.from_numpy(
                np.concatenate([part.n_full for part in parts if part.n_full is not None])
            ),
            senders=torch.from_numpy(shell.senders),
            receivers=torch.from_numpy(shell.receivers),
            shifts=torch.from_numpy(shell.shifts),
            max_neighbors=max_neighbors,
            cutoff=cutoff,
        ).to(device)
    return Graph(
        senders=torch.from_numpy(edges.senders).to(device),
        receivers=torch.from_numpy(edges.receivers).to(device),
        shifts=torch.from_numpy(edges.shifts).to(device),
        n_truncated=sum(part.n_truncated for part in parts),
        smooth=smooth,
    )


def edge_vectors(
    positions: Tensor, cell: Tensor, system_idx: Tensor, graph: Graph | SmoothTruncation
) -> Tensor:
    """Return the vectors from centers to neighbors, (n_edges, 3) Angstrom.

    Differentiable with respect to positions and cell.

    Args:
        positions: (n_atoms, 3) Angstrom.
        cell: (n_systems, 3, 3) Angstrom, rows are lattice vectors.
        system_idx: (n_atoms,) int64, structure of each atom.
        graph: edges of a graph, or the shell edges of smooth truncation.
    """
    # index_select, because the derivative of indexing by a tensor is three times slower
    vec = positions.index_select(0, graph.senders) - positions.index_select(0, graph.receivers)
    offset = torch.einsum(
        "ei,eij->ej", graph.shifts.to(cell.dtype), cell[system_idx[graph.receivers]]
    )
    return vec + offset


def pair_edges(graph: Graph, n_atoms: int) -> Tensor:
    """Number the pairs formed by each edge and its reverse, (n_edges,) int64 from 0 without gaps.

    An edge whose reverse was truncated is a pair by itself. Pairs are numbered by their lower atom
    index, so the pairs of one structure are consecutive.
    """
    shifts = graph.shifts.to(torch.int64)
    reach = 0 if graph.n_edges == 0 else int(shifts.abs().max())
    base = 2 * reach + 1
    # integer code of the shift; the reverse edge has the negative code
    image = shifts @ shifts.new_tensor([base * base, base, 1])
    low, high = (
        torch.minimum(graph.receivers, graph.senders),
        torch.maximum(graph.receivers, graph.senders),
    )
    image = torch.where(
        graph.receivers < graph.senders, image, torch.where(low == high, image.abs(), -image)
    )
    key = (low * n_atoms + high) * base**3 + image + base**3 // 2
    return torch.unique(key, return_inverse=True)[1]


def search(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radius: float) -> Edges:
    """Return the edges of one structure shorter than `radius`.

    Sorted by receiver, sender and shift.

    Args:
        positions: (n_atoms, 3) Angstrom.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
        radius: Angstrom.
    Raises:
        InputError: as `checked_cell`.
    """
    if len(positions) == 0:
        return NO_EDGES
    cell = checked_cell(positions, cell, pbc, radius)
    pairs, shifts, lengths = _searcher(radius).compute(positions, cell, pbc.tolist(), "PSd")
    pairs = pairs.astype(np.int64)
    order = _order(pairs, shifts, len(positions))
    order = order[lengths.take(order) < radius]
    return Edges(
        receivers=pairs[:, 0].take(order),
        senders=pairs[:, 1].take(order),
        shifts=shifts.take(order, axis=0).astype(np.float64),
        lengths=lengths.take(order),
    )


def _order(pairs: np.ndarray, shifts: np.ndarray, n_atoms: int) -> np.ndarray:
    """Return the order of edges by receiver, sender and shift.

    Sorting by one integer key is several times faster than by five columns.
    """
    if len(pairs) == 0:
        return np.zeros(0, dtype=np.int64)
    low = int(shifts.min())
    base = int(shifts.max()) - low + 1
    if n_atoms**2 * base**3 >= 2**53:
        return np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], pairs[:, 1], pairs[:, 0]))
    image = (shifts - low) @ np.array([base**2, base, 1.0])
    key = (pairs[:, 0] * n_atoms + pairs[:, 1]) * base**3 + image.astype(np.int64)
    return np.argsort(key, kind="stable")


def _searcher(radius: float) -> vesin.NeighborList:
    """Return the searcher of a radius and thread; creating one takes longer than a small search."""
    cache: dict[float, vesin.NeighborList] = _local.__dict__.setdefault("searchers", {})
    if radius not in cache:
        cache[radius] = vesin.NeighborList(cutoff=radius, full_list=True, n_threads=1)
    return cache[radius]


def checked_cell(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radius: float
) -> np.ndarray:
    """Complete the cell of one structure and check that a neighbor search is feasible.

    Args:
        positions: (n_atoms, 3) Angstrom, finite.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
        radius: search radius in Angstrom.
    Returns:
        The completed cell, see `complete_cell`.
    Raises:
        InputError: as `complete_cell`; or the structure is so large or its cell so small that the
            search would abort the process or fill its memory.
    """
    completed, heights = _cell_and_heights(np.asarray(cell, float).tobytes(), pbc.tobytes())
    _check_size(positions, completed, heights, pbc, radius)
    return completed


@lru_cache(maxsize=1024)
def _cell_and_heights(cell: bytes, pbc: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A completed cell, and its heights along periodic vectors, in Angstrom; in a relaxation they
    are asked for in every step.

    Args:
        cell, pbc: the bytes of the arrays.
    """
    periodic = np.frombuffer(pbc, dtype=bool)
    completed = complete_cell(np.frombuffer(cell).reshape(3, 3), periodic)
    completed.flags.writeable = False
    heights = 1 / np.sqrt((np.linalg.inv(completed) ** 2).sum(axis=0))[periodic]
    return completed, heights


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace the open lattice vectors of a cell by unit vectors normal to the others.

    Args:
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
    Returns:
        (3, 3) Angstrom.
    Raises:
        InputError: a periodic lattice vector is zero, or they are linearly dependent.
    """
    norms = np.sqrt((cell * cell).sum(axis=1))
    zero = pbc & (norms < 1e-6)
    if zero.any():
        axis = int(np.flatnonzero(zero)[0])
        raise InputError(
            f"lattice vector {'abc'[axis]} is zero although pbc is on along it; set the cell or"
            " pbc=False"
        )
    completed = np.eye(3) if not pbc.any() else cell
    if pbc.any() and not pbc.all():
        completed = cell.copy()
        completed[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
    if abs(np.linalg.det(completed)) < 1e-6 * norms[pbc].prod():
        raise InputError(
            f"the periodic cell {cell.tolist()} has zero volume; give linearly independent lattice"
            " vectors"
        )
    return completed


def _check_size(
    positions: np.ndarray,
    completed: np.ndarray,
    heights: np.ndarray,
    pbc: np.ndarray,
    radius: float,
) -> None:
    farthest = int(np.abs(positions).max(axis=1).argmax())
    where = positions[farthest].tolist()
    if max(map(abs, where)) > MAX_COORDINATE:
        raise InputError(
            f"atom {farthest} is at {where}, more than {MAX_COORDINATE:g} Å from the origin; check"
            " the input file"
        )
    # the open lattice vectors of `completed` have unit length
    widths = np.ptp(positions @ completed.T, axis=0)
    widths[pbc] = heights
    if widths.max() > MAX_EXTENT * radius:
        size = " x ".join(f"{width:.3g}" for width in widths)
        raise InputError(
            f"cell and atoms span {size} Å; neighbor lists support up to {MAX_EXTENT * radius:g} Å;"
            " check the input file"
        )
    images = float(np.prod(2 * radius / heights + 1))
    if images > MAX_IMAGES:
        raise InputError(
            f"the periodic cell {completed[pbc].tolist()} is so small or flat that {images:.0e}"
            f" images lie within {radius:g} Å of an atom; check the cell"
        )
