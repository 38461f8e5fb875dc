"""Graph strategies: rules for connecting the atoms of a structure.

- radius: neighbors within the cutoff of the network, at most `max_neighbors` of them.
- nearest: the `max_neighbors` nearest neighbors at any distance.
- complete: every pair of atoms; in periodic structures at the nearest image, or at all nearest
  images if several tie. The energy is discontinuous where another image becomes the nearest, unless
  the weight of such long edges is zero.

The radial functions of the network cover the range up to its cutoff for all strategies. With a
smooth cutoff (always in SchNet; in FAENet unless `smooth_cutoff` is off) longer edges have no
effect, so `nearest` and `complete` need a cutoff longer than their edges, or `smooth_cutoff:
false`. The removal of edges beyond `max_neighbors` is described in `geocalc.graphs.truncation`.

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
    assemble_graph,
    build_graph,
    complete_cell,
    count_edges,
    edge_vectors,
    search,
    split_structures,
)
from geocalc.graphs.truncation import (
    NO_EDGES,
    Edges,
    TruncatedEdges,
    Truncation,
    fade,
    join_edges,
    refine_radii,
    required_radii,
    truncate_each,
)

# initial search radius for nearest neighbors in Angstrom; it does not affect the result
FIRST_RADIUS = 4.0
GROWTH = 1.5  # factor on the search radius while an atom has too few neighbors


class Strategy(StrEnum):
    """Rule for connecting two atoms."""

    RADIUS = "radius"
    NEAREST = "nearest"
    COMPLETE = "complete"


class GraphSettings(Settings):
    """Settings of graph construction; the cutoff and `max_neighbors` are settings of the network.

    Attributes:
        strategy: radius, nearest or complete.
        truncation: per-atom, symmetric or smooth.
    """

    strategy: Strategy = Strategy.RADIUS
    truncation: Truncation = Truncation.PER_ATOM

    def check(self, max_neighbors: int | None) -> None:
        """Check that the settings are compatible with `max_neighbors`.

        Raises:
            InputError: a strategy or truncation needs `max_neighbors` and it is None, or a complete
                graph is to be truncated.
        """
        if self.strategy is Strategy.COMPLETE and (
            max_neighbors is not None or self.truncation is not Truncation.PER_ATOM
        ):
            raise InputError(
                "a complete graph cannot be truncated; set max_neighbors: null and remove"
                " truncation, or use the strategy `nearest`"
            )
        if max_neighbors is None and self.strategy is Strategy.NEAREST:
            raise InputError(
                "the strategy `nearest` needs the number of neighbors; set max_neighbors in the"
                " settings of the network"
            )
        if max_neighbors is None and self.truncation is not Truncation.PER_ATOM:
            raise InputError(
                f"{self.truncation} truncation needs the largest number of neighbors; set"
                " max_neighbors in the settings of the network"
            )


RADIUS = GraphSettings()


def make_graph(
    systems: Systems,
    cutoff: float,
    max_neighbors: int | None = None,
    settings: GraphSettings = RADIUS,
) -> Graph:
    """Connect the atoms of a batch by a strategy.

    Args:
        systems: batch of structures; positions may lie outside the cell.
        cutoff: Angstrom, used by `radius` only.
        max_neighbors: largest number of neighbors of an atom, None for no limit.
        settings: strategy and truncation.
    Returns:
        Graph, sorted by receiver.
    Raises:
        InputError: the settings are incompatible, or as `build_graph`.
    """
    settings.check(max_neighbors)
    if settings.strategy is Strategy.RADIUS:
        return build_graph(systems, cutoff, max_neighbors, settings.truncation)
    if settings.strategy is Strategy.COMPLETE or max_neighbors is None:
        parts = [
            TruncatedEdges(edges=_all_pairs(*structure)) for structure in split_structures(systems)
        ]
    else:
        lists = (
            _nearest_edges(*structure, max_neighbors, settings.truncation)
            for structure in split_structures(systems)
        )
        parts = truncate_each(lists, systems.counts.tolist(), max_neighbors, settings.truncation)
        parts = [replace(part, n_truncated=0) for part in parts]
    return assemble_graph(parts, systems, max_neighbors, np.inf)


def graph_builder(
    cutoff: float, max_neighbors: int | None, settings: GraphSettings
) -> Callable[[Systems], Graph]:
    """Return a function that builds graphs of structures that move little between calls.

    It equals `make_graph` with these arguments, and reuses neighbor lists for the `radius`
    strategy.
    """
    settings.check(max_neighbors)
    if settings.strategy is Strategy.RADIUS:
        return NeighborCache(cutoff, max_neighbors, truncation=settings.truncation)
    return partial(make_graph, cutoff=cutoff, max_neighbors=max_neighbors, settings=settings)


def edge_weights(
    positions: Tensor, cell: Tensor, system_idx: Tensor, graph: Graph, edge_vec: Tensor
) -> Tensor | None:
    """Return the weight of each edge under smooth truncation, (n_edges,).

    The weights of an edge and its reverse are equal. Differentiable. None if all weights are one.

    Args:
        positions: (n_atoms, 3) Angstrom.
        cell: (n_systems, 3, 3) Angstrom.
        system_idx: (n_atoms,) structure of each atom.
        graph: graph built at these positions.
        edge_vec: (n_edges, 3) Angstrom, vectors of its edges.
    """
    smooth = graph.smooth
    if smooth is None:
        return None
    shell = safe_lengths(edge_vectors(positions, cell, system_idx, smooth))
    radii = refine_radii(
        smooth.radii, shell, smooth.receivers, smooth.n_full, smooth.max_neighbors, smooth.cutoff
    )
    lengths = safe_lengths(edge_vec)
    at_receiver, at_sender = (
        radii.index_select(0, ends) for ends in (graph.receivers, graph.senders)
    )
    return fade(lengths / at_receiver) * fade(lengths / at_sender)


def estimate_edges(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
    max_neighbors: int | None,
    settings: GraphSettings,
) -> int:
    """Estimate the number of edges of one structure.

    Exact except for ties and for symmetric or smooth truncation.

    Args:
        positions: (n_atoms, 3) Angstrom.
        cell: (3, 3) Angstrom.
        pbc: (3,) bool.
        cutoff: as in `make_graph`.
        max_neighbors: as in `make_graph`.
        settings: as in `make_graph`.
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


def _nearest_edges(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    max_neighbors: int,
    truncation: Truncation,
) -> Edges:
    """Search the nearest neighbors of the atoms of one structure.

    The search radius grows until each atom has enough neighbors for the truncation.
    """
    n, radius = len(positions), FIRST_RADIUS
    while True:
        edges = search(positions, cell, pbc, radius)
        complete = required_radii(edges, n, max_neighbors, truncation) < radius
        if complete.all() or (not pbc.any() and len(edges.lengths) == n * (n - 1)):
            return edges
        radius *= GROWTH


def _all_pairs(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Edges:
    """Return an edge for every pair of one structure at its nearest image."""
    n, completed = len(positions), complete_cell(cell, pbc)
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
