"""Atoms of some structures of a batch in an array with one row per structure, padded with zeros to
the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the atoms of some structures lie in an array (n_rows, n_max).

    Attributes:
        systems: (n_rows,) int64, numbers of the structures in their batch of `n_systems`.
        counts: (n_rows,) int64, their atoms.
        atoms: (n_held,) int64, their atoms in the batch of `n_atoms`.
        slots: (n_held,) int64, row times n_max plus column.
        n_max: atoms of the largest.
    """

    systems: Tensor
    counts: Tensor
    atoms: Tensor
    slots: Tensor
    n_max: int
    n_atoms: int
    n_systems: int

    @property
    def n_rows(self) -> int:
        """Number of structures."""
        return self.systems.shape[0]

    @property
    def whole(self) -> bool:
        """Whether the array holds the batch as it is, without padding."""
        return self.slots.shape[0] == self.n_rows * self.n_max == self.n_atoms

    def pad(self, values: Tensor) -> Tensor:
        """Values (n_atoms, width) of the batch as (n_rows, n_max, width), zero where there is no
        atom.
        """
        if self.whole:
            return values.view(self.n_rows, self.n_max, -1)
        flat = values.new_zeros((self.n_rows * self.n_max, values.shape[1]))
        return flat.index_copy(0, self.slots, values.index_select(0, self.atoms)).view(
            self.n_rows, self.n_max, -1
        )

    def unpad(self, padded: Tensor) -> Tensor:
        """The way back: (n_rows, n_max, width) to (n_atoms, width), zero for atoms of other
        structures.
        """
        flat = padded.reshape(self.n_rows * self.n_max, -1)
        if self.whole:
            return flat
        held = flat.index_select(0, self.slots)
        return held.new_zeros((self.n_atoms, held.shape[1])).index_copy(0, self.atoms, held)

    def copies(self, owner: Tensor, system_idx: Tensor) -> tuple[Tensor | None, Layout]:
        """The layout of copies of the batch, and the row that each of its rows copies; None where
        they are the rows themselves.

        Args:
            owner: (n_copies,) int64, the structure of each copy, ascending.
            system_idx: (n_copied_atoms,) int64, their copy.
        """
        if owner.shape[0] == self.n_systems:
            return None, self
        row = _inverse(self.systems, self.n_systems)[owner]
        copied = torch.nonzero(row >= 0).squeeze(1)
        return row[copied], _layout(system_idx, owner.shape[0], copied, self.n_max)


def layout_of(system_idx: Tensor, n_systems: int, systems: Sequence[int]) -> Layout:
    """The layout of some structures, at least one, given by their numbers.

    Args:
        system_idx: (n_atoms,) int64, ascending.
        n_systems: of the batch.
        systems: ascending.
    """
    chosen = torch.tensor(systems, device=system_idx.device)
    n_max = int(torch.bincount(system_idx, minlength=n_systems)[chosen].max())
    return _layout(system_idx, n_systems, chosen, n_max)


def _layout(system_idx: Tensor, n_systems: int, chosen: Tensor, n_max: int) -> Layout:
    counts = torch.bincount(system_idx, minlength=n_systems)
    first = torch.cumsum(counts, 0) - counts
    row = _inverse(chosen, n_systems)[system_idx]
    atoms = torch.nonzero(row >= 0).squeeze(1)
    return Layout(
        systems=chosen,
        counts=counts[chosen],
        atoms=atoms,
        slots=row[atoms] * n_max + atoms - first[system_idx[atoms]],
        n_max=n_max,
        n_atoms=system_idx.shape[0],
        n_systems=n_systems,
    )


def _inverse(chosen: Tensor, n_systems: int) -> Tensor:
    """Place of each structure among the chosen, (n_systems,); -1 for the others."""
    places = torch.full((n_systems,), -1, dtype=torch.int64, device=chosen.device)
    return places.index_copy(0, chosen, torch.arange(len(chosen), device=chosen.device))
