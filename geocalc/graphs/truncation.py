"""Truncation of neighbor lists to a largest number of neighbors N.

With d the distances of the neighbors of an atom:

- per-atom: each atom keeps its N nearest neighbors, as published. The graph is directed, and the
  energy is discontinuous where the order of neighbors changes.
- symmetric: an edge is kept if at least one of its ends keeps it. The energy is discontinuous as
  before.
- smooth: each atom i has a radius R_i at which its neighbors fade out, and an edge has the weight
  fade(d / R_i) fade(d / R_j). R_i solves

      sum_j fade(d_ij / R_i) + N wall(R_i) = N - 1/2,

  where fade = 1 up to (1 - SHELL) R and decreases smoothly to 0 at R, and wall increases from 0 to
  1 over the last fraction EDGE of the cutoff, so R never exceeds the cutoff. The half guarantees a
  neighbor in the shell, so R_i is a smooth function of the positions; weights and energies have two
  continuous derivatives. (The distance of the N-th neighbor itself has kinks where the order of
  neighbors changes.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

# Angstrom; neighbors this close to the truncation radius are tied and all kept
TIE_TOLERANCE = 1e-4
# fraction of the radius over which neighbors fade out; a thinner shell keeps the number of
# neighbors closer to N and makes the energy less smooth
SHELL = 0.3
# fraction of the cutoff over which `wall` increases; radii of atoms with fewer than N neighbors lie
# in this range
EDGE = 0.1
BISECTIONS = 20  # bisection steps until Newton's method is certain to converge
NEWTON_STEPS = 3  # Newton steps from there to rounding accuracy
# differentiable Newton steps from the root; with two, the value and the first three derivatives of
# a radius are exact
REFINEMENTS = 2


class Truncation(StrEnum):
    """Rule for removing neighbors beyond the largest number."""

    PER_ATOM = "per-atom"
    SYMMETRIC = "symmetric"
    SMOOTH = "smooth"


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Sorted edges as arrays.

    Attributes:
        receivers: (n_edges,) int64, centers.
        senders: (n_edges,) int64, neighbors.
        shifts: (n_edges, 3) integer cell offsets.
        lengths: (n_edges,) Angstrom.
    """

    receivers: np.ndarray
    senders: np.ndarray
    shifts: np.ndarray
    lengths: np.ndarray

    def take(self, kept: np.ndarray) -> Edges:
        """Return the edges selected by a mask (n_edges,) bool."""
        rows = np.flatnonzero(kept)
        return Edges(**{f.name: getattr(self, f.name).take(rows, axis=0) for f in fields(self)})


NO_EDGES = Edges(
    receivers=np.zeros(0, dtype=np.int64),
    senders=np.zeros(0, dtype=np.int64),
    shifts=np.zeros((0, 3)),
    lengths=np.zeros(0),
)


def join_edges(parts: Sequence[Edges], n_atoms: Sequence[int]) -> Edges:
    """Join the edges of single structures into those of their batch.

    Args:
        parts: edges of each structure.
        n_atoms: number of atoms of each structure.
    """
    starts = np.cumsum([0, *n_atoms])[:-1]
    return Edges(
        receivers=np.concatenate(
            [NO_EDGES.receivers, *(p.receivers + k for p, k in zip(parts, starts, strict=True))]
        ),
        senders=np.concatenate(
            [NO_EDGES.senders, *(p.senders + k for p, k in zip(parts, starts, strict=True))]
        ),
        shifts=np.concatenate([NO_EDGES.shifts, *(p.shifts for p in parts)]),
        lengths=np.concatenate([NO_EDGES.lengths, *(p.lengths for p in parts)]),
    )


@dataclass(frozen=True, kw_only=True)
class TruncatedEdges:
    """Edges after truncation.

    Attributes:
        edges: edges that are kept.
        n_truncated: number of edges that were removed.
        radii: (n_atoms,) Angstrom, radii of smooth truncation; infinite for an atom with fewer
            neighbors than allowed and no cutoff. None without smooth truncation.
        n_full: (n_atoms,) number of neighbors of each atom with a fade of one.
        shell: edges to neighbors with a fade below one.
    """

    edges: Edges
    n_truncated: int = 0
    radii: np.ndarray | None = None
    n_full: np.ndarray | None = None
    shell: Edges | None = None


def truncate(
    edges: Edges,
    n_atoms: int,
    max_neighbors: int | None,
    truncation: Truncation,
    cutoff: float = np.inf,
) -> TruncatedEdges:
    """Truncate a full neighbor list.

    Args:
        edges: every pair closer than some radius, in both directions.
        n_atoms: number of atoms.
        max_neighbors: largest number of neighbors of an atom; None keeps all with weight one.
        truncation: see the module.
        cutoff: Angstrom, upper limit of the radii of smooth truncation; infinite for none.
    """
    if max_neighbors is None:
        return TruncatedEdges(edges=edges)
    if truncation is Truncation.SMOOTH:
        return _truncate_smoothly(edges, n_atoms, max_neighbors, cutoff)
    limits = _nth_lengths(edges, n_atoms, max_neighbors) + TIE_TOLERANCE
    reach = limits[edges.receivers]
    if truncation is Truncation.SYMMETRIC:
        reach = np.maximum(reach, limits[edges.senders])
    kept = edges.take(edges.lengths <= reach)
    return TruncatedEdges(edges=kept, n_truncated=len(edges.lengths) - len(kept.lengths))


def truncate_each(
    lists: Iterable[Edges],
    n_atoms: Sequence[int],
    max_neighbors: int | None,
    truncation: Truncation,
    cutoff: float = np.inf,
) -> list[TruncatedEdges]:
    """Truncate the neighbor lists of single structures.

    Args:
        lists: full neighbor list of each structure.
        n_atoms: number of atoms of each structure.
        max_neighbors: as in `truncate`.
        truncation: as in `truncate`.
        cutoff: as in `truncate`.
    Returns:
        One item for each structure; with smooth truncation one item for the whole batch, because
        the radii of all structures are computed together.
    """
    if truncation is Truncation.SMOOTH:
        return [
            truncate(
                join_edges(list(lists), n_atoms), sum(n_atoms), max_neighbors, truncation, cutoff
            )
        ]
    return [
        truncate(edges, n, max_neighbors, truncation, cutoff)
        for edges, n in zip(lists, n_atoms, strict=True)
    ]


def required_radii(
    edges: Edges, n_atoms: int, max_neighbors: int, truncation: Truncation
) -> np.ndarray:
    """Return the search radius that truncation needs for each atom, (n_atoms,) Angstrom.

    Infinite for an atom with fewer than `max_neighbors` neighbors in the list.
    """
    lengths = _nth_lengths(edges, n_atoms, max_neighbors)
    return lengths / (1 - SHELL) if truncation is Truncation.SMOOTH else lengths + 2 * TIE_TOLERANCE


def _nth_lengths(edges: Edges, n_atoms: int, n: int) -> np.ndarray:
    """Return the distance of each atom's n-th neighbor, (n_atoms,) Angstrom.

    Infinite for an atom with fewer neighbors.
    """
    count = np.bincount(edges.receivers, minlength=n_atoms)
    most = int(count.max(initial=0))
    if most < n:
        return np.full(n_atoms, np.inf)
    first = np.cumsum(count) - count
    table = np.full((n_atoms, most), np.inf)
    table[edges.receivers, np.arange(len(edges.receivers)) - first[edges.receivers]] = edges.lengths
    return np.partition(table, n - 1, axis=1)[:, n - 1]


def _truncate_smoothly(
    edges: Edges, n_atoms: int, max_neighbors: int, cutoff: float
) -> TruncatedEdges:
    """Apply smooth truncation."""
    nearest = _nth_lengths(edges, n_atoms, max_neighbors)
    high = np.minimum(nearest / (1 - SHELL), cutoff)  # the sum exceeds N - 1/2 there
    radii = _radii(edges.take(edges.lengths < high[edges.receivers]), high, max_neighbors, cutoff)
    at_receiver = edges.lengths / radii[edges.receivers]
    kept = edges.take((at_receiver < 1) & (edges.lengths < radii[edges.senders]))
    full = at_receiver <= 1 - SHELL
    return TruncatedEdges(
        edges=kept,
        n_truncated=len(edges.lengths) - len(kept.lengths),
        radii=radii,
        n_full=np.bincount(edges.receivers[full], minlength=n_atoms),
        shell=edges.take(~full & (at_receiver < 1)),
    )


def _radii(edges: Edges, high: np.ndarray, max_neighbors: int, cutoff: float) -> np.ndarray:
    """Solve for the radii of smooth truncation by bisection and Newton's method.

    Args:
        edges: edges that can contribute to the sums.
        high: (n_atoms,) Angstrom, upper bounds; infinite for atoms without a solution.
        max_neighbors: as in `truncate`.
        cutoff: as in `truncate`.
    Returns:
        (n_atoms,) Angstrom; infinite for atoms without a solution.
    """
    lengths, receivers = torch.from_numpy(edges.lengths), torch.from_numpy(edges.receivers)
    finite = np.isfinite(high)
    low, top = (
        torch.zeros(len(high), dtype=torch.float64),
        torch.from_numpy(np.where(finite, high, 1.0)),
    )
    none = torch.zeros(len(high), dtype=torch.float64)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + top)
        above = _excess(middle, lengths, receivers, none, max_neighbors, cutoff)[0] > 0
        low, top = torch.where(above, low, middle), torch.where(above, middle, top)
    radii = top
    for _ in range(NEWTON_STEPS):
        excess, slope = _excess(radii, lengths, receivers, none, max_neighbors, cutoff)
        radii = torch.where(slope > 0, radii - excess / slope, radii).clamp(low, top)
    return np.where(finite, radii.numpy(), np.inf)


def refine_radii(
    radii: Tensor,
    lengths: Tensor,
    receivers: Tensor,
    n_full: Tensor,
    max_neighbors: int,
    cutoff: float,
) -> Tensor:
    """Return the radii of smooth truncation as differentiable functions of the lengths.

    Args:
        radii: (n_atoms,) Angstrom, solution at these lengths.
        lengths: (n_shell_edges,) Angstrom, lengths of the edges in the shell; differentiable.
        receivers: (n_shell_edges,) int64, centers of these edges.
        n_full: (n_atoms,) number of neighbors nearer than the shell.
        max_neighbors: as in `truncate`.
        cutoff: as in `truncate`.
    Returns:
        (n_atoms,) Angstrom.
    """
    finite = radii.isfinite()
    refined = torch.where(finite, radii, 1.0)
    for _ in range(REFINEMENTS):
        excess, slope = _excess(refined, lengths, receivers, n_full, max_neighbors, cutoff)
        refined = refined - torch.where(finite, excess / torch.where(finite, slope, 1.0), 0.0)
    return torch.where(finite, refined, radii)


def fade(ratio: Tensor) -> Tensor:
    """Return the weight of a neighbor as a function of distance / radius.

    1 up to 1 - SHELL and 0 from 1 on, with two continuous derivatives.

    Source: the quintic smoothstep of Perlin (2002).
    """
    u = ((ratio - (1 - SHELL)) / SHELL).clamp(0.0, 1.0)
    return 1 - u**3 * (10 - 15 * u + 6 * u * u)


def _fade_slope(ratio: Tensor) -> Tensor:
    """Return the derivative of `fade`."""
    u = ((ratio - (1 - SHELL)) / SHELL).clamp(0.0, 1.0)
    return -30 * (u * (1 - u)) ** 2 / SHELL


def _excess(
    radii: Tensor,
    lengths: Tensor,
    receivers: Tensor,
    n_full: Tensor,
    max_neighbors: int,
    cutoff: float,
) -> tuple[Tensor, Tensor]:
    """Return the residual of the equation of the radii and its derivative by the radius.

    Both (n_atoms,).
    """
    at = radii.index_select(0, receivers)
    ratio = lengths / at
    excess = n_full.to(radii.dtype) - (max_neighbors - 0.5)
    excess = excess.index_add(0, receivers, fade(ratio))
    slope = torch.zeros_like(radii).index_add(0, receivers, -_fade_slope(ratio) * ratio / at)
    if cutoff < np.inf:
        u = ((radii - (1 - EDGE) * cutoff) / (EDGE * cutoff)).clamp(0.0, 1.0)
        excess = excess + max_neighbors * u**3 * (10 - 15 * u + 6 * u * u)
        slope = slope + max_neighbors * 30 * (u * (1 - u)) ** 2 / (EDGE * cutoff)
    return excess, slope
