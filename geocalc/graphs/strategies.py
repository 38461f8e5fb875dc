"""Graph strategies: which atoms a network connects.

- radius: neighbors within the cutoff of the network, `max_neighbors` of them at most.
- nearest: the `max_neighbors` nearest, however far they are.
- complete: every pair, in periodic structures at its nearest image, at all of them where several tie. An energy jumps where another
  image becomes the nearest, unless edges that long are silent.

The cutoff of the network stays what its radial functions span. With a smooth cutoff (SchNet always,
FAENet unless `smooth_cutoff` is off) edges longer than it are silent, whatever the strategy; so
`nearest` and `complete` want a cutoff longer than their edges, or `smooth_cutoff: false`. How edges
are chosen where there are more than `max_neighbors` is said in `geocalc.graphs.truncation`.

Source: the strategies compared on OC20 by Duval et al. (2022, 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial

import numpy as np
from torch import Tensor

from geocalc.core.lengths import safe_lengths
from geocalc.core.settings import Settings
from geocalc.core.systems import Systems
from geocalc.errors import InputError
from geocalc.graphs.images import nearest_images
from geocalc.graphs.neighbors import (
    Graph,
    NeighborCache,
    build_graph,
    count_edges,
    edge_vectors,
    full_cell,
    graph_of,
    search,
    split,
)
from geocalc.graphs.truncation import (
    NO_EDGES,
    Cut,
    Edges,
    Truncation,
    fade,
    farthest_counted,
    join_edges,
    settled_radii,
    truncate_each,
)

# Angstrom, in which the nearest neighbors are looked for first; it changes no graph
FIRST_RADIUS = 4.0
GROWTH = 1.5  # of that radius, while an atom has too few


class Strategy(StrEnum):
    """What makes two atoms neighbors."""

    RADIUS = "radius"
    NEAREST = "nearest"
    COMPLETE = "complete"


class GraphSettings(Settings):
    """How graphs are made; the cutoff and `max_neighbors` are settings of the network.

    Attributes:
        strategy: radius, nearest or complete.
        truncation: per-atom, symmetric or smooth.
    """

    strategy: Strategy = Strategy.RADIUS
    truncation: Truncation = Truncation.PER_ATOM

    def check(self, max_neighbors: int | None) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: neighbors are to be counted and there is no number of them, or one that
                nothing asks for.
        """
        if self.strategy is Strategy.COMPLETE and (
            max_neighbors is not None or self.truncation is not Truncation.PER_ATOM
        ):
            raise InputError(
                "a complete graph leaves no neighbor out; set max_neighbors: null and no"
                " truncation, or take `nearest`"
            )
        if max_neighbors is None and self.strategy is Strategy.NEAREST:
            raise InputError(
                "graphs of nearest neighbors need their number; set max_neighbors in the settings"
                " of the network"
            )
        if max_neighbors is None and self.truncation is not Truncation.PER_ATOM:
            raise InputError(
                f"{self.truncation} truncation is of graphs with a largest number of neighbors;"
                " set max_neighbors in the settings of the network"
            )


RADIUS = GraphSettings()


def make_graph(
    systems: Systems,
    cutoff: float,
    max_neighbors: int | None = None,
    settings: GraphSettings = RADIUS,
) -> Graph:
    """Connect the atoms of a batch.

    Args:
        systems: batch of structures; positions may lie outside the cell.
        cutoff: Angstrom, read by `radius` alone.
        max_neighbors: of each atom, None for all.
        settings: the strategy.
    Returns:
        Graph, sorted by receiver.
    Raises:
        InputError: settings do not go together, or as `build_graph`.
    """
    settings.check(max_neighbors)
    if settings.strategy is Strategy.RADIUS:
        return build_graph(systems, cutoff, max_neighbors, settings.truncation)
    if settings.strategy is Strategy.COMPLETE or max_neighbors is None:
        cuts = [Cut(edges=_all_pairs(*structure)) for structure in split(systems)]
    else:
        lists = (
            _near(*structure, max_neighbors, settings.truncation) for structure in split(systems)
        )
        cuts = truncate_each(lists, systems.counts.tolist(), max_neighbors, settings.truncation)
        cuts = [replace(cut, n_left_out=0) for cut in cuts]
    return graph_of(cuts, systems, max_neighbors, np.inf)


def graph_maker(
    cutoff: float, max_neighbors: int | None, settings: GraphSettings
) -> Callable[[Systems], Graph]:
    """`make_graph` with these arguments, for structures that move little between calls: their lists
    are kept where that is possible.
    """
    settings.check(max_neighbors)
    if settings.strategy is Strategy.RADIUS:
        return NeighborCache(cutoff, max_neighbors, truncation=settings.truncation)
    return partial(make_graph, cutoff=cutoff, max_neighbors=max_neighbors, settings=settings)


def edge_weights(
    positions: Tensor, cell: Tensor, system_idx: Tensor, graph: Graph, edge_vec: Tensor
) -> Tensor | None:
    """How much each edge counts, (n_edges,), the same as its reverse; differentiable. None where
    all count as one.

    Args:
        positions: (n_atoms, 3) Angstrom.
        cell: (n_systems, 3, 3) Angstrom.
        system_idx: (n_atoms,).
        graph: made at these positions.
        edge_vec: (n_edges, 3) Angstrom, of its edges.
    """
    fading = graph.fading
    if fading is None:
        return None
    shell = safe_lengths(edge_vectors(positions, cell, system_idx, fading))
    radii = settled_radii(
        fading.radii, shell, fading.receivers, fading.whole, fading.max_neighbors, fading.cutoff
    )
    lengths = safe_lengths(edge_vec)
    at_receiver, at_sender = (
        radii.index_select(0, ends) for ends in (graph.receivers, graph.senders)
    )
    return fade(lengths / at_receiver) * fade(lengths / at_sender)


def expected_edges(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
    max_neighbors: int | None,
    settings: GraphSettings,
) -> int:
    """About how many edges one structure has: exact but for ties, and for what truncation does to
    both ends of an edge.

    Args:
        positions: (n_atoms, 3) Angstrom.
        cell: (3, 3) Angstrom.
        pbc: (3,) bool.
        cutoff, max_neighbors, settings: as in `make_graph`.
    Raises:
        InputError: as `make_graph`.
    """
    n = len(positions)
    if settings.strategy is Strategy.COMPLETE or (
        settings.strategy is Strategy.NEAREST and max_neighbors is None
    ):
        return n * (n - 1)
    if settings.strategy is Strategy.NEAREST and max_neighbors is not None:
        return n * max_neighbors
    within = count_edges(positions, cell, pbc, cutoff)
    return within if max_neighbors is None else min(within, n * max_neighbors)


def _near(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    max_neighbors: int,
    truncation: Truncation,
) -> Edges:
    """Neighbors of the atoms of one structure, the nearest among them: within a radius that grows
    until each has enough.
    """
    n, radius = len(positions), FIRST_RADIUS
    while True:
        edges = search(positions, cell, pbc, radius)
        found = farthest_counted(edges, n, max_neighbors, truncation) < radius
        if found.all() or (not pbc.any() and len(edges.lengths) == n * (n - 1)):
            return edges
        radius *= GROWTH


def _all_pairs(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Edges:
    """Every pair of one structure at its nearest image."""
    n, completed = len(positions), full_cell(cell, pbc)
    parts = []
    for center in range(n):
        others = np.delete(np.arange(n), center)
        rows, shifts, lengths = nearest_images(
            positions[others] - positions[center], completed, pbc
        )
        parts.append(
            Edges(
                receivers=np.full(len(rows), center),
                senders=others[rows],
                shifts=shifts,
                lengths=lengths,
            )
        )
    return join_edges(parts, [0] * n) if n else NO_EDGES
