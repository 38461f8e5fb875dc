"""What an optimizer is: two pure functions of a batch that never call a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geocalc.core.systems import Coordinates

State = TypeVar("State")
Item = TypeVar("Item")
Floats = NDArray[np.float64]


class Optimizer(Protocol[State]):
    """Settings of a method; what it remembers of a structure lives in `State`.

    `State` is a frozen dataclass whose fields are marked `per_row` or `per_system`, so that
    `geocalc.core.systems.select` slices it when structures leave a batch. The path of a structure
    never depends on its batch mates.
    """

    def init(self, coordinates: Coordinates) -> State:
        """State before the first step.

        Args:
            coordinates: batch of structures about to be relaxed.
        """
        ...

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Where to go from here.

        Args:
            coordinates: batch at its present positions.
            energy: (n_systems,) eV.
            forces: (n_atoms, 3) eV/Angstrom, zero on fixed components and across the planes and
                lines that hold atoms.
            state: from `init` or the previous step, sliced alike with the batch.
        Returns:
            Displacement (n_atoms, 3) in Angstrom, zero on fixed components, and the new state. What
            leads out of planes and lines is not applied; a sum of forces and earlier displacements
            never does.
        """
        ...


@dataclass(frozen=True)
class Ragged(Generic[Item]):
    """One item per structure, of any shape each; a per-system field that `select` can slice."""

    items: tuple[Item, ...]

    def __getitem__(self, chosen: Tensor) -> Ragged[Item]:
        """The items of the structures chosen by a (n_systems,) bool mask."""
        return Ragged(
            tuple(item for item, keep in zip(self.items, chosen.tolist(), strict=True) if keep)
        )

    def __add__(self, other: Ragged[Item]) -> Ragged[Item]:
        """The items of this batch and then those of the other."""
        return Ragged(self.items + other.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def dots_per_system(
    pairs: Sequence[tuple[Tensor, Tensor]], coordinates: Coordinates
) -> list[list[float]]:
    """Scalar products of pairs of per-atom vector fields (n_atoms, 3) in each structure: a list
    over pairs for each structure.

    Atoms are summed one after the other, so that a sum never depends on batch mates.
    """
    counts = coordinates.counts
    per_axis = [
        torch.segment_reduce(left * right, "sum", lengths=counts, unsafe=True)
        for left, right in pairs
    ]
    return [
        [x + y + z for x, y, z in of_pairs] for of_pairs in torch.stack(per_axis, dim=1).tolist()
    ]


def spread(rows: Sequence[Sequence[float]], coordinates: Coordinates) -> Sequence[Tensor]:
    """Numbers of each structure, n_systems rows of k, on the atoms of each structure: k tensors
    (n_atoms, 1).
    """
    per_system = torch.tensor(
        rows, dtype=coordinates.positions.dtype, device=coordinates.positions.device
    )
    return per_system.index_select(0, coordinates.system_idx).split(1, dim=1)


@dataclass(frozen=True, kw_only=True)
class FreeComponents:
    """The free components of a batch, for dense algebra on one structure at a time.

    Attributes:
        index: (n_free,) places in the flat (n_atoms * 3,) coordinates.
        atom_starts: (n_systems + 1,) first atom of each structure, and the end of the last.
        starts: (n_systems + 1,) the same for places in `index`.
    """

    index: NDArray[np.int64]
    atom_starts: NDArray[np.int64]
    starts: Sequence[int]

    @classmethod
    def of(cls, coordinates: Coordinates) -> FreeComponents:
        """The free components of a batch."""
        owner, fixed = coordinates.system_idx.cpu().numpy(), coordinates.fixed.cpu().numpy()
        index = np.flatnonzero(~fixed)
        atom_starts = np.searchsorted(owner, np.arange(coordinates.n_systems + 1))
        return cls(
            index=index,
            atom_starts=atom_starts,
            starts=np.searchsorted(index, 3 * atom_starts).tolist(),
        )

    @property
    def sizes(self) -> list[int]:
        """Number of free components of each structure."""
        return [end - start for start, end in pairwise(self.starts)]

    def atoms(self) -> list[NDArray[np.int64]]:
        """The atom of each free component, counted from the first of its structure: one array for
        each structure.
        """
        owners = self.index // 3
        return [
            owners[start:end] - first
            for (start, end), first in zip(pairwise(self.starts), self.atom_starts, strict=False)
        ]

    def split(self, *values: Tensor) -> list[Floats]:
        """The free components of k per-atom `values` (n_atoms, 3), one (k, n_free) array on the CPU
        for each structure.

        Each has memory of its own: matrix products may round differently with the alignment of a
        view, that is, with batch mates.
        """
        rows = np.stack([value.cpu().numpy().reshape(-1)[self.index] for value in values])
        return [rows[:, start:end].copy() for start, end in pairwise(self.starts)]

    def join(self, steps: Sequence[Floats], max_step: float, like: Tensor) -> Tensor:
        """Displacement (n_atoms, 3) of flat `steps`, one for each structure; zero on the fixed
        components.

        Args:
            steps: (n_free,) Angstrom for each structure.
            max_step: Angstrom; where an atom of a structure would move farther, its step is scaled
                down as a whole.
            like: tensor whose device the displacement is wanted on.
        """
        flat = np.zeros(3 * self.atom_starts[-1])
        flat[self.index] = np.concatenate(steps)
        squares = flat * flat
        lengths = squares[0::3] + squares[1::3] + squares[2::3]
        longest = np.sqrt(np.maximum.reduceat(lengths, self.atom_starts[:-1]))
        displacement = flat.reshape(-1, 3)
        if not (longest <= max_step).all():
            shorter = max_step / np.maximum(longest, max_step)
            displacement *= np.repeat(shorter, np.diff(self.atom_starts))[:, None]
        return torch.from_numpy(displacement).to(like)
