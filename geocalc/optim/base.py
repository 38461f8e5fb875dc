"""Interface of optimizers: two pure functions of a batch, which never call a model."""

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
    """Settings of an optimization method; its memory of each structure is in `State`.

    `State` is a frozen dataclass whose fields are marked `per_row` or `per_system`, so that
    `geocalc.core.systems.select` slices it when structures leave a batch. The path of a structure
    never depends on the other structures of its batch. Rows are atoms, and strains where cells
    relax; see `geocalc.core.systems.Coordinates`.
    """

    def init(self, coordinates: Coordinates) -> State:
        """State before the first step.

        Args:
            coordinates: batch at the start of a relaxation.
        """
        ...

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Compute the next displacement.

        Args:
            coordinates: batch at its present positions.
            energy: (n_systems,) eV.
            forces: (n_rows, 3) eV/Angstrom, zero on fixed components and across the planes and
                lines that hold atoms.
            state: from `init` or the previous step, sliced alike with the batch.
        Returns:
            Displacement (n_rows, 3) in Angstrom, zero on fixed components, and the new state.
            Components out of planes and lines are not applied; sums of forces and earlier
            displacements have none.
        """
        ...


@dataclass(frozen=True)
class Ragged(Generic[Item]):
    """One item per structure, each of any shape: a per-system field that `select` can slice."""

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
    """Scalar products of pairs of vector fields (n_rows, 3), summed over each structure.

    Rows are summed one after the other, so that a sum never depends on the rest of the batch.

    Returns:
        For each structure a list with the product of each pair.
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
    """Repeat k numbers of each structure over its rows: k tensors (n_rows, 1).

    Args:
        rows: n_systems lists of k numbers.
        coordinates: batch.
    """
    per_system = torch.tensor(
        rows, dtype=coordinates.positions.dtype, device=coordinates.positions.device
    )
    return per_system.index_select(0, coordinates.system_idx).split(1, dim=1)


@dataclass(frozen=True, kw_only=True)
class FreeComponents:
    """Free components of a batch, for dense algebra on one structure at a time.

    Attributes:
        index: (n_free,) places in the flat (n_rows * 3,) coordinates.
        row_starts: (n_systems + 1,) first row of each structure, and the end of the last.
        starts: (n_systems + 1,) the same for places in `index`.
    """

    index: NDArray[np.int64]
    row_starts: NDArray[np.int64]
    starts: Sequence[int]

    @classmethod
    def of(cls, coordinates: Coordinates) -> FreeComponents:
        """The free components of a batch."""
        owner, fixed = coordinates.system_idx.cpu().numpy(), coordinates.fixed.cpu().numpy()
        index = np.flatnonzero(~fixed)
        row_starts = np.searchsorted(owner, np.arange(coordinates.n_systems + 1))
        return cls(
            index=index,
            row_starts=row_starts,
            starts=np.searchsorted(index, 3 * row_starts).tolist(),
        )

    @property
    def sizes(self) -> list[int]:
        """Number of free components of each structure."""
        return [end - start for start, end in pairwise(self.starts)]

    def rows(self) -> list[NDArray[np.int64]]:
        """Row of each free component, counted from the first of its structure: one array for each
        structure.
        """
        owners = self.index // 3
        return [
            owners[start:end] - first
            for (start, end), first in zip(pairwise(self.starts), self.row_starts, strict=False)
        ]

    def split(self, *values: Tensor) -> list[Floats]:
        """Free components of k `values` (n_rows, 3): one (k, n_free) array on the CPU for each
        structure.

        The arrays are copies: matrix products may round differently with the alignment of a view,
        which depends on the rest of the batch.
        """
        rows = np.stack([value.cpu().numpy().reshape(-1)[self.index] for value in values])
        return [rows[:, start:end].copy() for start, end in pairwise(self.starts)]

    def join(self, steps: Sequence[Floats], max_step: float, like: Tensor) -> Tensor:
        """Displacement (n_rows, 3) from flat steps, zero on the fixed components.

        Args:
            steps: (n_free,) Angstrom for each structure.
            max_step: Angstrom; where a row would move farther, the step of its structure is scaled
                down as a whole.
            like: tensor of the device and dtype of the displacement.
        """
        flat = np.zeros(3 * self.row_starts[-1])
        flat[self.index] = np.concatenate(steps)
        squares = flat * flat
        lengths = squares[0::3] + squares[1::3] + squares[2::3]
        longest = np.sqrt(np.maximum.reduceat(lengths, self.row_starts[:-1]))
        displacement = flat.reshape(-1, 3)
        if not (longest <= max_step).all():
            shorter = max_step / np.maximum(longest, max_step)
            displacement *= np.repeat(shorter, np.diff(self.row_starts))[:, None]
        return torch.from_numpy(displacement).to(like)
