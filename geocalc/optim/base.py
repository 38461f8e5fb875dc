"""What an optimiser is: two pure functions of a batch that never call a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from geocalc.systems import Systems, sum_per_system

State = TypeVar("State")


class Optimizer(Protocol[State]):
    """Settings of a method; what it remembers of a structure lives in `State`.

    `State` is a frozen dataclass whose fields are marked `per_atom` or `per_system`, so that `geocalc.systems.select` slices it
    when structures leave a batch. The path of a structure never depends on its batch mates.
    """

    def init(self, systems: Systems) -> State:
        """State before the first step.

        Args:
            systems: batch of structures about to be relaxed.
        """
        ...

    def step(self, systems: Systems, energy: Tensor, forces: Tensor, state: State) -> tuple[Tensor, State]:
        """Where to go from here.

        Args:
            systems: batch at its present positions.
            energy: (n_systems,) eV.
            forces: (n_atoms, 3) eV/Angstrom, zero on fixed components.
            state: from `init` or the previous step, sliced alike with the batch.
        Returns:
            Displacement (n_atoms, 3) in Angstrom, zero on fixed components, and the new state.
        """
        ...


@dataclass(frozen=True)
class Ragged:
    """One tensor per structure, of any shape each; a per-system field that `select` can slice."""

    tensors: tuple[Tensor, ...]

    def __getitem__(self, chosen: Tensor) -> Ragged:
        """The tensors of the structures chosen by a (n_systems,) bool mask."""
        return Ragged(tuple(tensor for tensor, keep in zip(self.tensors, chosen.tolist(), strict=True) if keep))

    def __add__(self, other: Ragged) -> Ragged:
        """The tensors of this batch and then those of the other."""
        return Ragged(self.tensors + other.tensors)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def dot_per_system(left: Tensor, right: Tensor, systems: Systems) -> Tensor:
    """Scalar product of two per-atom vector fields (n_atoms, 3) in each structure, (n_systems,)."""
    per_axis = sum_per_system(left * right, systems)
    return per_axis[:, 0] + per_axis[:, 1] + per_axis[:, 2]


def split_free(values: Tensor, systems: Systems) -> Sequence[Tensor]:
    """The free components of per-atom `values` (n_atoms, 3), one flat tensor per structure.

    Each has memory of its own: matrix products round differently with the alignment of a view, that is, with batch mates.
    """
    free = ~systems.fixed
    sizes = sum_per_system(free.sum(1), systems).tolist()
    return [part.clone() for part in torch.split(values[free], sizes)]


def join_free(parts: Sequence[Tensor], systems: Systems) -> Tensor:
    """Inverse of `split_free`: (n_atoms, 3) with zeros on the fixed components."""
    values = torch.zeros_like(systems.positions)
    values[~systems.fixed] = torch.cat(list(parts))
    return values
