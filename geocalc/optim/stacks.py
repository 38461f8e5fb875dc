"""Dense arrays of many structures for linear algebra on all of them in one call.

Structures of about the same number of free rows share a stack, padded to the same size. Arrays are
numpy's on a CPU, where its calls cost least, and torch's elsewhere; the functions of both that are
used here have the same names and arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from geocalc.core.systems import Coordinates, free_atoms

Array: TypeAlias = Any  # numpy array on a CPU, tensor elsewhere
STEP = 4  # free rows; sizes of stacks are multiples of it


def library_of(array: Array) -> ModuleType:
    """The library of an array."""
    return torch if isinstance(array, Tensor) else np


def as_array(tensor: Tensor) -> Array:
    """A tensor as an array that shares its memory."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def as_tensor(array: Array) -> Tensor:
    """An array as a tensor that shares its memory."""
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Structures with about the same number of free rows.

    Attributes:
        place: (k,) int64, their places in the batch, ascending.
        rows: (k, size) int64, the free rows of each, counted from its first one; -1 for padding.
        matrix: (k, 3 size, 3 size), of each structure over the components of these rows.
    """

    place: Array
    rows: Array
    matrix: Array

    @property
    def size(self) -> int:
        """Free rows of each structure, with padding."""
        return int(self.rows.shape[1])

    def places_of_rows(self, coordinates: Coordinates) -> Array:
        """Places (k, size) of the rows in a batch of n rows; n for padding."""
        counts = as_array(coordinates.counts)
        first = counts.cumsum(0) - counts
        whole = library_of(self.rows).where(
            self.rows < 0, len(coordinates.positions), self.rows + first[self.place][:, None]
        )
        return whole


@dataclass(frozen=True)
class Stacks:
    """All structures of a batch in stacks: a per-system field that `select` can slice."""

    items: tuple[Stack, ...]

    def __iter__(self) -> Iterator[Stack]:
        return iter(self.items)

    def __getitem__(self, chosen: Tensor) -> Stacks:
        """The structures of a (n_systems,) bool mask."""
        mask = as_array(chosen)
        places = mask.cumsum(0) - 1
        left = []
        for stack in self.items:
            keep = mask[stack.place]
            if bool(keep.any()):
                left.append(
                    Stack(
                        place=places[stack.place[keep]],
                        rows=stack.rows[keep],
                        matrix=stack.matrix[keep],
                    )
                )
        return Stacks(tuple(left))

    def __add__(self, other: Stacks) -> Stacks:
        """The structures of this batch and then those of the other."""
        n = sum(len(stack.place) for stack in self.items)
        joined = {stack.size: stack for stack in self.items}
        for stack in other.items:
            moved = replace(stack, place=stack.place + n)
            joined[stack.size] = (
                _joined(joined[stack.size], moved) if stack.size in joined else moved
            )
        return Stacks(tuple(joined.values()))


def _joined(one: Stack, other: Stack) -> Stack:
    """Two stacks of a size as one."""
    join = library_of(one.rows).concatenate
    return Stack(
        **{f.name: join([getattr(one, f.name), getattr(other, f.name)]) for f in fields(one)}
    )


def free_rows(coordinates: Coordinates) -> list[tuple[Array, Array]]:
    """`place` and `rows` of the stacks of a batch; one without free rows is in the smallest.

    Args:
        coordinates: batch of structures.
    """
    owner, free = coordinates.system_idx, free_atoms(coordinates.fixed)
    counts = coordinates.counts
    first = (counts.cumsum(0) - counts)[owner]
    n_free = torch.zeros_like(counts).index_add_(0, owner, free.long())
    slot = free.long().cumsum(0) - 1
    slot = slot - (n_free.cumsum(0) - n_free)[owner]  # among the free rows of a structure
    sizes = (n_free.clamp(min=1) + STEP - 1) // STEP * STEP
    found = []
    for size in sizes.unique().tolist():
        place = torch.nonzero(sizes == size).squeeze(1)
        index = torch.full_like(counts, -1)
        index[place] = torch.arange(len(place), device=counts.device)
        chosen = torch.nonzero(free & (sizes == size)[owner]).squeeze(1)
        rows = torch.full((len(place), size), -1, device=counts.device)
        rows[index[owner[chosen]], slot[chosen]] = chosen - first[chosen]
        found.append((as_array(place), as_array(rows)))
    return found


def gathered(values: Array, places: Array) -> Array:
    """Fields on rows, (n_rows, m, 3), as flat components (k, m, 3 size), zero at padding.

    Args:
        values: of every row of a batch.
        places: (k, size), see `Stack.places_of_rows`.
    """
    padded = library_of(values).concatenate([values, values[:1] * 0])
    found = padded[places].swapaxes(1, 2)
    return found.reshape(len(places), values.shape[1], -1)


def scattered(flat: Sequence[tuple[Array, Array]], like: Tensor) -> Tensor:
    """Vectors (n_rows, 3) from flat components (k, 3 size) and the places of their rows; zero on
    other rows.

    Args:
        flat: components and places of each stack.
        like: tensor (n_rows, 3) of the device and dtype.
    """
    padded = like.new_zeros((len(like) + 1, 3))
    target = as_array(padded)
    for values, places in flat:
        target[places.reshape(-1)] = values.reshape(-1, 3)
    return padded[:-1]
