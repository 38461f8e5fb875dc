"""Edges of a network: senders, receivers, pairs and features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class EdgeIndex:
    """Senders and receivers of edges sorted by receiver, with the offsets that segment sums need.

    An edge and its reverse (same two atoms, opposite vector) form a pair; quantities that depend on
    the length only are computed once for both.

    Attributes:
        senders: (n_edges,) int64, neighbor of each edge.
        receivers: (n_edges,) int64, center of each edge, ascending.
        receiver_offsets: (n_atoms,) int64, first edge of each receiver.
        sender_order: (n_edges,) int64, edges sorted by sender.
        sender_offsets: (n_atoms,) int64, first position of each sender in `sender_order`.
        pair_of: (n_edges,) int64, pair of each edge.
        pair_order: (n_edges,) int64, edges sorted by pair.
        pair_offsets: (n_pairs,) int64, first position of each pair in `pair_order`.
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
        """Build the index of edges that are sorted by receiver.

        Args:
            senders: (n_edges,) int64.
            receivers: (n_edges,) int64, ascending.
            n_atoms: number of atoms.
            pair_of: (n_edges,) pair numbers from 0 without gaps; None makes each edge a pair of its
                own.
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
        """Index of one edge of each pair, (n_pairs,)."""
        return self.pair_order[self.pair_offsets]

    def to_receivers(self, values: Tensor) -> Tensor:
        """Sum rows of edges (n_edges, width) over the edges of each receiver: (n_atoms, width)."""
        return _segment_sum(values, None, self.receiver_offsets)

    def to_senders(self, values: Tensor) -> Tensor:
        """Sum rows of edges (n_edges, width) over the edges of each sender: (n_atoms, width)."""
        return _segment_sum(values, self.sender_order, self.sender_offsets)

    def to_pairs(self, values: Tensor) -> Tensor:
        """Sum rows of edges (n_edges, width) over the edges of each pair: (n_pairs, width)."""
        return _segment_sum(values, self.pair_order, self.pair_offsets)

    def blocks(self, rows: int) -> list[tuple[slice, slice]]:
        """Split the edges into blocks of at most `rows` edges that do not divide a receiver.

        A block may be longer if a single receiver has more edges. Empty blocks are omitted.

        Returns:
            Ranges of receivers and of edges of each block.
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
    """Return the stable sort order of `keys`, and the position of the first item of each key."""
    ordered, order = torch.sort(keys, stable=True)
    return order, torch.searchsorted(ordered, torch.arange(n_keys, device=keys.device))


def _segment_sum(values: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    """Sum consecutive rows of `values`, or of `values[order]`, between offsets."""
    if values.shape[0] == 0 or offsets.shape[0] == 0:
        return values.new_zeros((offsets.shape[0], values.shape[1]))
    index = torch.arange(values.shape[0], device=values.device) if order is None else order
    return functional.embedding_bag(index, values, offsets, mode="sum")


@dataclass(frozen=True)
class EdgeFeatures:
    """Features of edges, those of single edges separate from those of pairs.

    Attributes:
        directed: (n_edges, n_directed) features of each edge.
        shared: (n_pairs, n_shared) features common to both edges of a pair, or None.
    """

    directed: Tensor
    shared: Tensor | None

    def joined(self, index: EdgeIndex) -> Tensor:
        """Return all features of each edge as one tensor, (n_edges, n_directed + n_shared)."""
        if self.shared is None:
            return self.directed
        return torch.cat([self.directed, self.shared.index_select(0, index.pair_of)], dim=1)

    def to(self, dtype: torch.dtype) -> EdgeFeatures:
        """Return the features in another floating type."""
        return EdgeFeatures(
            self.directed.to(dtype), None if self.shared is None else self.shared.to(dtype)
        )
