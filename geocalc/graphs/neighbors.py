"""Neighbor lists: vesin behind one function.

Edge convention, everywhere in geocalc: `edge_vec = positions[senders] - positions[receivers] +
shifts @ cell`; receivers are the centers, senders their neighbors, and edges are sorted by
receiver.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import vesin
from torch import Tensor

from geocalc.core.systems import Systems
from geocalc.errors import InputError
from geocalc.graphs.truncation import (
    NO_EDGES,
    Cut,
    Edges,
    Truncation,
    join_edges,
    truncate,
    truncate_each,
)

# Angstrom from the origin; beyond it positions are no longer exact to 1e-10 Angstrom
FARTHEST = 1e6
# cutoffs; vesin lays out 1e5 bins at most, and ends the process where that leaves less than one in
# a direction
WIDEST = 300
# cells within reach of an atom; small cells with long cutoffs have hundreds, damaged ones fill the
# memory
IMAGES = 1e5
_local = threading.local()


@dataclass(frozen=True, kw_only=True)
class Fading:
    """What smooth truncation needs to say how much an edge weighs, see `geocalc.graphs.truncation`.

    Attributes:
        radii: (n_atoms,) float64 Angstrom; infinite where an atom keeps all there are.
        whole: (n_atoms,) int64, neighbors that count as one.
        senders, receivers, shifts: of the edges to the others that count, as in a graph.
        max_neighbors: neighbors allowed.
        cutoff: Angstrom, infinite for none.
    """

    radii: Tensor
    whole: Tensor
    senders: Tensor
    receivers: Tensor
    shifts: Tensor
    max_neighbors: int
    cutoff: float

    def to(self, device: torch.device) -> Fading:
        """The same on another device."""
        return replace(
            self,
            radii=self.radii.to(device),
            whole=self.whole.to(device),
            senders=self.senders.to(device),
            receivers=self.receivers.to(device),
            shifts=self.shifts.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Edges of a batch of structures.

    Attributes:
        senders: (n_edges,) int64, neighbor j.
        receivers: (n_edges,) int64, center i, ascending.
        shifts: (n_edges, 3) float64, integer cell offsets of the neighbor's image.
        n_truncated: edges within the cutoff left out by `max_neighbors`; where there is no cutoff,
            none is said to be.
        fading: how edges fade out, where truncation is smooth.
    """

    senders: Tensor
    receivers: Tensor
    shifts: Tensor
    n_truncated: int = 0
    fading: Fading | None = None

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return self.senders.shape[0]

    def to(self, device: torch.device) -> Graph:
        """The same edges on another device."""
        return Graph(
            senders=self.senders.to(device),
            receivers=self.receivers.to(device),
            shifts=self.shifts.to(device),
            n_truncated=self.n_truncated,
            fading=None if self.fading is None else self.fading.to(device),
        )

    def where(self, kept: Tensor) -> Graph:
        """The edges of a (n_edges,) bool mask."""
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
    """Connect every atom to its neighbors within `cutoff`, periodic images included.

    Args:
        systems: batch of structures; positions may lie outside the cell.
        cutoff: radius in Angstrom, positive; edges of exactly this length are left out.
        max_neighbors: keep at most this many nearest neighbors of each atom; neighbors tied with
            the last one are all kept, so the graph keeps the symmetry of the structure.
        truncation: how that is done, see `geocalc.graphs.truncation`.
    Returns:
        Graph, sorted by receiver.
    Raises:
        InputError: `cutoff` or `max_neighbors` is not positive, a position is not finite, a
            periodic cell has zero volume, or atoms or cells are beyond all measure.
    Source: cell-list search of vesin; Allen and Tildesley (2017), sec. 5.3.
    """
    _check_settings(cutoff, max_neighbors)
    lists = (search(*structure, cutoff) for structure in split(systems))
    cuts = truncate_each(lists, systems.counts.tolist(), max_neighbors, truncation, cutoff)
    return graph_of(cuts, systems, max_neighbors, cutoff)


def count_edges(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> int:
    """Directed edges of one structure; its graph has as many, but for edges of exactly the length
    of the cutoff.

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
    completed = searchable(positions, cell, pbc, cutoff)
    return len(_searcher(cutoff).compute(positions, completed, pbc.tolist(), "P")[0])


class NeighborCache:
    """Neighbor lists that are searched anew only for structures in which an atom has moved by half
    the skin.

    Between searches the list of a structure, longer by `skin`, is cut to the edges that are now
    shorter than the cutoff, so every graph equals that of `build_graph`. Structures may leave the
    batch and others enter: each keeps its list as long as it comes back in the next call.

    Args:
        cutoff: radius in Angstrom.
        max_neighbors, truncation: as in `build_graph`.
        skin: extra radius in Angstrom; 0 searches whenever an atom moves at all.
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
            raise InputError(f"skin must be a length in Angstrom, zero or more, got {skin}")
        self.cutoff, self.max_neighbors, self.skin, self.truncation = (
            cutoff,
            max_neighbors,
            skin,
            truncation,
        )
        self.n_searches = 0
        self._kept: dict[bytes, list[_Kept]] = {}

    def __call__(self, systems: Systems) -> Graph:
        """The graph of `systems`.

        Raises:
            InputError: as `build_graph`.
        """
        structures, old = split(systems), self._kept
        kept: dict[bytes, list[_Kept]] = {}
        lists = []
        for positions, cell, pbc in structures:
            key = cell.tobytes() + pbc.tobytes()
            known = next(
                (k for k in old.get(key, ()) if self._reaches(k.positions, positions)), None
            )
            lists.append(known or self._keep(positions, cell, pbc))
            kept.setdefault(key, []).append(lists[-1])
        self._kept = kept
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
        cut = truncate(edges, systems.n_atoms, self.max_neighbors, self.truncation, self.cutoff)
        return graph_of([cut], systems, self.max_neighbors, self.cutoff)

    def _keep(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> _Kept:
        """The list of one structure, searched."""
        self.n_searches += 1
        edges = search(positions, cell, pbc, self.cutoff + self.skin)
        return _Kept(positions=positions.copy(), edges=edges, offsets=edges.shifts @ cell)

    def _reaches(self, old: np.ndarray, new: np.ndarray) -> bool:
        """Whether the list made at positions `old` holds every edge at `new`."""
        if old.shape != new.shape:
            return False
        way = new - old
        farthest = float(np.einsum("ai,ai->a", way, way).max(initial=0.0))
        return farthest == 0.0 or farthest < (self.skin / 2) ** 2


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """The list of one structure: its edges, their offsets (n, 3) in Angstrom, and the positions
    (n_atoms, 3) it was made at.
    """

    positions: np.ndarray
    edges: Edges
    offsets: np.ndarray


def _check_settings(cutoff: float, max_neighbors: int | None) -> None:
    if not 0 < cutoff < np.inf:
        raise InputError(f"cutoff must be a positive length in Angstrom, got {cutoff}")
    if max_neighbors is not None and max_neighbors < 1:
        raise InputError(
            f"max_neighbors must be at least 1, or None for all neighbors, got {max_neighbors}"
        )


def split(systems: Systems) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions, cell and pbc of each structure of a batch."""
    positions = systems.positions.detach().cpu().numpy()
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise InputError(
            f"position of atom {bad} is not a number: {positions[bad].tolist()}; check the file it"
            " came from"
        )
    cells, pbc = systems.cell.detach().cpu().numpy(), systems.pbc.cpu().numpy()
    ends = systems.counts.cumsum(0).tolist()
    return [
        (positions[start:end], cells[k], pbc[k])
        for k, (start, end) in enumerate(pairwise([0, *ends]))
    ]


def graph_of(
    cuts: Sequence[Cut], systems: Systems, max_neighbors: int | None, cutoff: float
) -> Graph:
    """The truncated lists of single structures, or of their whole batch, as its graph."""
    device = systems.positions.device
    n_atoms = systems.counts.tolist() if len(cuts) == systems.n_systems else [systems.n_atoms]
    edges = join_edges([cut.edges for cut in cuts], n_atoms)
    fading = None
    radii = [cut.radii for cut in cuts if cut.radii is not None]
    if radii and max_neighbors is not None:
        shell = join_edges([cut.shell for cut in cuts if cut.shell is not None], n_atoms)
        fading = Fading(
            radii=torch.from_numpy(np.concatenate(radii)),
            whole=torch.from_numpy(
                np.concatenate([cut.whole for cut in cuts if cut.whole is not None])
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
        n_truncated=sum(cut.n_left_out for cut in cuts),
        fading=fading,
    )


def edge_vectors(
    positions: Tensor, cell: Tensor, system_idx: Tensor, graph: Graph | Fading
) -> Tensor:
    """Vectors from center to neighbor, (n_edges, 3) Angstrom; differentiable in positions and
    cell.
    """
    # index_select: the derivative of indexing by a tensor costs three times as much
    vec = positions.index_select(0, graph.senders) - positions.index_select(0, graph.receivers)
    offset = torch.einsum(
        "ei,eij->ej", graph.shifts.to(cell.dtype), cell[system_idx[graph.receivers]]
    )
    return vec + offset


def pair_edges(graph: Graph, n_atoms: int) -> Tensor:
    """Number of the pair that each edge forms with its reverse, (n_edges,) int64 from 0 without
    gaps.

    An edge whose reverse was truncated is a pair of its own. Pairs are numbered by their lower
    atom, so those of one structure follow each other.
    """
    shifts = graph.shifts.to(torch.int64)
    reach = 0 if graph.n_edges == 0 else int(shifts.abs().max())
    base = 2 * reach + 1
    image = shifts @ shifts.new_tensor([base * base, base, 1])  # of the reverse edge: its negative
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
    """The edges of one structure that are shorter than `radius`, sorted by receiver, sender and
    shift.
    """
    if len(positions) == 0:
        return NO_EDGES
    cell = searchable(positions, cell, pbc, radius)
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
    """Order of the edges by receiver, sender and shift; one integer key sorts several times faster
    than five columns.
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
    """One searcher per radius and thread: creating one costs more than a search of a small
    structure.
    """
    cache: dict[float, vesin.NeighborList] = _local.__dict__.setdefault("searchers", {})
    if radius not in cache:
        cache[radius] = vesin.NeighborList(cutoff=radius, full_list=True, n_threads=1)
    return cache[radius]


def searchable(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radius: float
) -> np.ndarray:
    """The cell for a search in one structure, see `full_cell`.

    Args:
        positions: (n_atoms, 3) Angstrom, finite.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
        radius: of the search, Angstrom.
    Raises:
        InputError: as `full_cell`; or a size would end the process or fill its memory.
    """
    completed = full_cell(cell, pbc)
    _check_size(positions, completed, pbc, radius)
    return completed


def full_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell with directions without periodicity made unit vectors normal to the others, (3, 3)
    Angstrom.

    Args:
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
    Raises:
        InputError: a periodic vector is zero or the periodic volume is.
    """
    norms = np.sqrt((cell * cell).sum(axis=1))
    zero = pbc & (norms < 1e-6)
    if zero.any():
        axis = int(np.flatnonzero(zero)[0])
        raise InputError(
            f"cell vector {'abc'[axis]} is zero but pbc is on along it; set the cell or pbc=False"
        )
    completed = np.eye(3) if not pbc.any() else cell
    if pbc.any() and not pbc.all():
        completed = cell.copy()
        completed[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
    if abs(np.linalg.det(completed)) < 1e-6 * norms[pbc].prod():
        raise InputError(
            f"the periodic cell {cell.tolist()} has zero volume; its lattice vectors must be"
            " independent"
        )
    return completed


def _check_size(
    positions: np.ndarray, completed: np.ndarray, pbc: np.ndarray, radius: float
) -> None:
    farthest = int(np.abs(positions).max(axis=1).argmax())
    where = positions[farthest].tolist()
    if max(map(abs, where)) > FARTHEST:
        raise InputError(
            f"atom {farthest} is at {where}, more than {FARTHEST:g} Å from the origin; check the"
            " file it came from"
        )
    heights = 1 / np.sqrt((np.linalg.inv(completed) ** 2).sum(axis=0))[pbc]
    # the open vectors of `completed` have unit length
    widths = np.ptp(positions @ completed.T, axis=0)
    widths[pbc] = heights
    if widths.max() > WIDEST * radius:
        size = " x ".join(f"{width:.3g}" for width in widths)
        raise InputError(
            f"cell and atoms span {size} Å; neighbors are searched in up to {WIDEST * radius:g} Å:"
            " check the file they came from"
        )
    images = float(np.prod(2 * radius / heights + 1))
    if images > IMAGES:
        raise InputError(
            f"the periodic cell {completed[pbc].tolist()} is so small or flat that {images:.0e}"
            f" images of it lie within {radius:g} Å of an atom; check the cell"
        )
