"""Edges as a network sees them: who sends to whom, and features split by what an edge shares with
its reverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class EdgeIndex:
    """Who sends to whom, with what segment sums need; edges are sorted by receiver.

    An edge and its reverse (same two atoms, opposite vector) form a pair: what depends on the
    length alone is computed once for both.

    Attributes:
        senders, receivers: (n_edges,) int64.
        receiver_offsets: (n_atoms,) int64, first edge of each receiver.
        sender_order: (n_edges,) int64, edges sorted by sender.
        sender_offsets: (n_atoms,) int64, first place of each sender in `sender_order`.
        pair_of: (n_edges,) int64, pair of each edge.
        pair_order, pair_offsets: (n_edges,) and (n_pairs,) int64, the same for pairs.
    """

    senders: Tensor
    receivers: Tensor
    receiver_offsets: Tensor
    sender_order: Tensor
    sender_offsets: Tensor
    pair_of: Tensor
    pair_order: Tensor
    pair_offsets: Tensor

    @classmethod
    def build(
        cls, senders: Tensor, receivers: Tensor, n_atoms: int, pair_of: Tensor | None = None
    ) -> EdgeIndex:
        """Index edges that are sorted by receiver.

        Args:
            senders, receivers: (n_edges,).
            n_atoms: their number.
            pair_of: (n_edges,) numbers from 0 without gaps; None makes each edge a pair of its own.
        """
        every = torch.arange(senders.shape[0], device=senders.device)
        sender_order, sender_offsets = _sort(senders, n_atoms)
        pair_of = every if pair_of is None else pair_of
        n_pairs = int(pair_of.max()) + 1 if pair_of.shape[0] else 0
        pair_order, pair_offsets = _sort(pair_of, n_pairs)
        atoms = torch.arange(n_atoms, device=senders.device)
        receiver_offsets = torch.searchsorted(receivers, atoms)
        return cls(
            senders,
            receivers,
            receiver_offsets,
            sender_order,
            sender_offsets,
            pair_of,
            pair_order,
            pair_offsets,
        )

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.receiver_offsets.shape[0]

    @property
    def first_of_pair(self) -> Tensor:
        """One edge of each pair, (n_pairs,)."""
        return self.pair_order[self.pair_offsets]

    def to_receivers(self, values: Tensor) -> Tensor:
        """Sum per-edge rows (n_edges, width) over the edges of each receiver: (n_atoms, width)."""
        return _segment_sum(values, None, self.receiver_offsets)

    def to_senders(self, values: Tensor) -> Tensor:
        """Sum per-edge rows (n_edges, width) over the edges of each sender: (n_atoms, width)."""
        return _segment_sum(values, self.sender_order, self.sender_offsets)

    def to_pairs(self, values: Tensor) -> Tensor:
        """Sum per-edge rows (n_edges, width) over the edges of each pair: (n_pairs, width)."""
        return _segment_sum(values, self.pair_order, self.pair_offsets)

    def blocks(self, rows: int) -> list[tuple[slice, slice]]:
        """Runs of whole receivers with at most `rows` edges (or one receiver with more), and their
        edges; empty runs are left out.
        """
        ends = [*self.receiver_offsets.tolist()[1:], self.senders.shape[0]] if self.n_atoms else []
        blocks, first_atom, first_edge, last_end = [], 0, 0, 0
        for atom, end in enumerate(ends):
            if end - first_edge > rows and last_end > first_edge:
                blocks.append((slice(first_atom, atom), slice(first_edge, last_end)))
                first_atom, first_edge = atom, last_end
            last_end = end
        if last_end > first_edge:
            blocks.append((slice(first_atom, len(ends)), slice(first_edge, last_end)))
        return blocks


def _sort(keys: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
    """Stable order of `keys`, and the place of the first of each key in it."""
    ordered, order = torch.sort(keys, stable=True)
    return order, torch.searchsorted(ordered, torch.arange(n_keys, device=keys.device))


def _segment_sum(values: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    """Sums of consecutive rows (of `values[order]`), one per offset."""
    if values.shape[0] == 0 or offsets.shape[0] == 0:
        return values.new_zeros((offsets.shape[0], values.shape[1]))
    index = torch.arange(values.shape[0], device=values.device) if order is None else order
    return functional.embedding_bag(index, values, offsets, mode="sum")


@dataclass(frozen=True)
class EdgeFeatures:
    """Features of the edges: those of each edge, then those that a pair shares.

    Attributes:
        directed: (n_edges, directed filters).
        shared: (n_pairs, shared filters), or None where there are none.
    """

    directed: Tensor
    shared: Tensor | None

    def joined(self, index: EdgeIndex) -> Tensor:
        """As one tensor, (n_edges, filters)."""
        if self.shared is None:
            return self.directed
        return torch.cat([self.directed, self.shared.index_select(0, index.pair_of)], dim=1)

    def to(self, dtype: torch.dtype) -> EdgeFeatures:
        """The same features in another floating type."""
        return EdgeFeatures(
            self.directed.to(dtype), None if self.shared is None else self.shared.to(dtype)
        )
