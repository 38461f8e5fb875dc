"""Which edges of a full neighbor list are kept where every atom may keep but a few.

With N neighbors allowed, and d the distances of an atom's neighbors:

- per-atom: each atom keeps its N nearest, as published; the graph is directed, and energies jump where neighbors overtake each other.
- symmetric: an edge is kept where either of its ends keeps it; energies jump as before.
- smooth: each atom i has a radius R_i that lets its neighbors fade, and an edge weighs fade(d / R_i) fade(d / R_j). R_i is where the
  fades add up to N - 1/2,

      sum_j fade(d_ij / R_i) + N wall(R_i) = N - 1/2,

  fade = 1 up to (1 - SHELL) R, then a smooth step to 0 at R; wall rises from 0 to 1 over the last
  EDGE of the cutoff, which no R passes. The half keeps a neighbor in the shell, so R_i is a smooth
  function of the positions; weights have two continuous derivatives, and so have energies. (The
  distance of the N-th neighbor itself has kinks where neighbors overtake each other.)
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
# of a radius, over which neighbors fade; thinner shells follow N more closely and bend energies
# more sharply
SHELL = 0.3
# of the cutoff, that radii may fall behind it where there are fewer neighbors than allowed
EDGE = 0.1
BISECTIONS = 20  # halve the first bracket to where Newton's method is sure
NEWTON = 3  # steps from there to rounding
# of Newton, from the root: values and the first three derivatives of a radius are then exact
STEPS = 2


class Truncation(StrEnum):
    """Which neighbors stay where there are more than allowed."""

    PER_ATOM = "per-atom"
    SYMMETRIC = "symmetric"
    SMOOTH = "smooth"


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Edges as arrays, sorted: receivers, senders (n,), shifts (n, 3), lengths (n,) Angstrom."""

    receivers: np.ndarray
    senders: np.ndarray
    shifts: np.ndarray
    lengths: np.ndarray

    def take(self, kept: np.ndarray) -> Edges:
        """Those of a mask (n,) bool."""
        rows = np.flatnonzero(kept)
        return Edges(**{f.name: getattr(self, f.name).take(rows, axis=0) for f in fields(self)})


NO_EDGES = Edges(
    receivers=np.zeros(0, dtype=np.int64),
    senders=np.zeros(0, dtype=np.int64),
    shifts=np.zeros((0, 3)),
    lengths=np.zeros(0),
)


def join_edges(parts: Sequence[Edges], n_atoms: Sequence[int]) -> Edges:
    """The edges of single structures as those of their batch."""
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
class Cut:
    """What truncation leaves.

    Attributes:
        edges: kept.
        n_left_out: number of the others.
        radii: (n_atoms,) Angstrom, of smooth truncation; infinite where an atom has fewer
            neighbors than allowed and no cutoff. None where nothing fades.
        whole: (n_atoms,) neighbors of each atom that count as one in its sum of fades.
        shell: edges to those that count as less.
    """

    edges: Edges
    n_left_out: int = 0
    radii: np.ndarray | None = None
    whole: np.ndarray | None = None
    shell: Edges | None = None


def truncate(
    edges: Edges,
    n_atoms: int,
    max_neighbors: int | None,
    truncation: Truncation,
    cutoff: float = np.inf,
) -> Cut:
    """Cut a full neighbor list down.

    Args:
        edges: every pair closer than some radius, in both directions.
        n_atoms: that they are of.
        max_neighbors: of each atom; None keeps all, and nothing fades then.
        truncation: see above.
        cutoff: Angstrom, that smooth radii stay below; infinite for none.
    """
    if max_neighbors is None:
        return Cut(edges=edges)
    if truncation is Truncation.SMOOTH:
        return _fade_out(edges, n_atoms, max_neighbors, cutoff)
    limits = _nth_lengths(edges, n_atoms, max_neighbors) + TIE_TOLERANCE
    reach = limits[edges.receivers]
    if truncation is Truncation.SYMMETRIC:
        reach = np.maximum(reach, limits[edges.senders])
    kept = edges.take(edges.lengths <= reach)
    return Cut(edges=kept, n_left_out=len(edges.lengths) - len(kept.lengths))


def truncate_each(
    lists: Iterable[Edges],
    n_atoms: Sequence[int],
    max_neighbors: int | None,
    truncation: Truncation,
    cutoff: float = np.inf,
) -> list[Cut]:
    """`truncate` for the lists of single structures, one after the other; smooth radii are found
    for all of them together, as one.
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


def farthest_counted(
    edges: Edges, n_atoms: int, max_neighbors: int, truncation: Truncation
) -> np.ndarray:
    """How far a list must reach so that truncation misses no edge of an atom, (n_atoms,) Angstrom;
    infinite if more are needed.
    """
    lengths = _nth_lengths(edges, n_atoms, max_neighbors)
    return lengths / (1 - SHELL) if truncation is Truncation.SMOOTH else lengths + 2 * TIE_TOLERANCE


def _nth_lengths(edges: Edges, n_atoms: int, n: int) -> np.ndarray:
    """Distance of each atom's n-th neighbor, (n_atoms,) Angstrom; infinite where it has fewer."""
    count = np.bincount(edges.receivers, minlength=n_atoms)
    most = int(count.max(initial=0))
    if most < n:
        return np.full(n_atoms, np.inf)
    first = np.cumsum(count) - count
    table = np.full((n_atoms, most), np.inf)
    table[edges.receivers, np.arange(len(edges.receivers)) - first[edges.receivers]] = edges.lengths
    return np.partition(table, n - 1, axis=1)[:, n - 1]


def _fade_out(edges: Edges, n_atoms: int, max_neighbors: int, cutoff: float) -> Cut:
    nearest = _nth_lengths(edges, n_atoms, max_neighbors)
    high = np.minimum(nearest / (1 - SHELL), cutoff)  # there the fades add up to more than N - 1/2
    radii = _radii(edges.take(edges.lengths < high[edges.receivers]), high, max_neighbors, cutoff)
    at_receiver = edges.lengths / radii[edges.receivers]
    kept = edges.take((at_receiver < 1) & (edges.lengths < radii[edges.senders]))
    counted = at_receiver <= 1 - SHELL
    return Cut(
        edges=kept,
        n_left_out=len(edges.lengths) - len(kept.lengths),
        radii=radii,
        whole=np.bincount(edges.receivers[counted], minlength=n_atoms),
        shell=edges.take(~counted & (at_receiver < 1)),
    )


def _radii(edges: Edges, high: np.ndarray, max_neighbors: int, cutoff: float) -> np.ndarray:
    """Roots of the sums of fades, (n_atoms,) Angstrom, by bisection and Newton's method; `high` are
    above, infinite for no root.
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
    for _ in range(NEWTON):
        excess, slope = _excess(radii, lengths, receivers, none, max_neighbors, cutoff)
        radii = torch.where(slope > 0, radii - excess / slope, radii).clamp(low, top)
    return np.where(finite, radii.numpy(), np.inf)


def settled_radii(
    radii: Tensor,
    lengths: Tensor,
    receivers: Tensor,
    whole: Tensor,
    max_neighbors: int,
    cutoff: float,
) -> Tensor:
    """Radii of smooth truncation as functions of the lengths, (n_atoms,) Angstrom.

    Args:
        radii: (n_atoms,) at these lengths.
        lengths, receivers: (n,) of the edges in the shell; differentiable.
        whole: (n_atoms,) neighbors nearer than the shell.
        max_neighbors, cutoff: as in `truncate`.
    """
    finite = radii.isfinite()
    moved = torch.where(finite, radii, 1.0)
    for _ in range(STEPS):
        excess, slope = _excess(moved, lengths, receivers, whole, max_neighbors, cutoff)
        moved = moved - torch.where(finite, excess / torch.where(finite, slope, 1.0), 0.0)
    return torch.where(finite, moved, radii)


def fade(share: Tensor) -> Tensor:
    """Weight of a neighbor at `share` of a radius: 1 up to 1 - SHELL, 0 from 1 on, with two
    continuous derivatives between.

    Source: the step of fifth order of Perlin (2002).
    """
    u = ((share - (1 - SHELL)) / SHELL).clamp(0.0, 1.0)
    return 1 - u**3 * (10 - 15 * u + 6 * u * u)


def _fade_slope(share: Tensor) -> Tensor:
    u = ((share - (1 - SHELL)) / SHELL).clamp(0.0, 1.0)
    return -30 * (u * (1 - u)) ** 2 / SHELL


def _excess(
    radii: Tensor,
    lengths: Tensor,
    receivers: Tensor,
    whole: Tensor,
    max_neighbors: int,
    cutoff: float,
) -> tuple[Tensor, Tensor]:
    """What the sums of fades are above N - 1/2, and its derivative by the radius, both (n_atoms,)."""
    at = radii.index_select(0, receivers)
    share = lengths / at
    excess = whole.to(radii.dtype) - (max_neighbors - 0.5)
    excess = excess.index_add(0, receivers, fade(share))
    slope = torch.zeros_like(radii).index_add(0, receivers, -_fade_slope(share) * share / at)
    if cutoff < np.inf:
        u = ((radii - (1 - EDGE) * cutoff) / (EDGE * cutoff)).clamp(0.0, 1.0)
        excess = excess + max_neighbors * u**3 * (10 - 15 * u + 6 * u * u)
        slope = slope + max_neighbors * 30 * (u * (1 - u)) ** 2 / (EDGE * cutoff)
    return excess, slope
