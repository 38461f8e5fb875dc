"""Padded arrays: the atoms of some structures in one row per structure, filled up with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Positions of the atoms of some structures in a padded array (n_rows, n_max).

    Attributes:
        systems: (n_rows,) int64, indices of the structures in the batch.
        counts: (n_rows,) int64, number of atoms of each structure.
        atoms: (n_selected,) int64, indices of their atoms in the batch.
        slots: (n_selected,) int64, positions of these atoms, row times n_max plus column.
        n_max: number of atoms of the largest structure.
        n_atoms: number of atoms of the batch.
        n_systems: number of structures of the batch.
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
    def is_dense(self) -> bool:
        """Whether the array contains the whole batch without padding."""
        return self.slots.shape[0] == self.n_rows * self.n_max == self.n_atoms

    def pad(self, values: Tensor) -> Tensor:
        """Arrange values (n_atoms, width) as (n_rows, n_max, width), padded with zeros."""
        if self.is_dense:
            return values.view(self.n_rows, self.n_max, -1)
        flat = values.new_zeros((self.n_rows * self.n_max, values.shape[1]))
        return flat.index_copy(0, self.slots, values.index_select(0, self.atoms)).view(
            self.n_rows, self.n_max, -1
        )

    def unpad(self, padded: Tensor) -> Tensor:
        """Reverse `pad`: (n_rows, n_max, width) to (n_atoms, width).

        Zero for atoms of other structures.
        """
        flat = padded.reshape(self.n_rows * self.n_max, -1)
        if self.is_dense:
            return flat
        values = flat.index_select(0, self.slots)
        return values.new_zeros((self.n_atoms, values.shape[1])).index_copy(0, self.atoms, values)

    def copies(self, owner: Tensor, system_idx: Tensor) -> tuple[Tensor | None, Layout]:
        """Return the layout of copies of structures, for example one for each frame.

        Args:
            owner: (n_copies,) int64, structure of each copy, ascending.
            system_idx: (n_copied_atoms,) int64, copy of each atom.
        Returns:
            Row of this layout that each new row is a copy of, or None if the layouts are the same;
            and the layout.
        """
        if owner.shape[0] == self.n_systems:
            return None, self
        row = _inverse(self.systems, self.n_systems)[owner]
        copied = torch.nonzero(row >= 0).squeeze(1)
        return row[copied], _layout(system_idx, owner.shape[0], copied, self.n_max)


def make_layout(system_idx: Tensor, n_systems: int, systems: Sequence[int]) -> Layout:
    """Return the layout of some structures of a batch.

    Args:
        system_idx: (n_atoms,) int64, ascending.
        n_systems: number of structures of the batch.
        systems: indices of the structures, ascending, at least one.
    """
    chosen = torch.tensor(systems, device=system_idx.device)
    n_max = int(torch.bincount(system_idx, minlength=n_systems)[chosen].max())
    return _layout(system_idx, n_systems, chosen, n_max)


def _layout(system_idx: Tensor, n_systems: int, chosen: Tensor, n_max: int) -> Layout:
    """Return the layout of the chosen structures in rows of `n_max` atoms."""
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
    """Return the position of each structure among the chosen ones, (n_systems,); -1 for others."""
    positions = torch.full((n_systems,), -1, dtype=torch.int64, device=chosen.device)
    return positions.index_copy(0, chosen, torch.arange(len(chosen), device=chosen.device))
