"""What every network takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from geocalc.nn.message import EdgeIndex


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """A batch of canonicalised structures as a network sees them.

    Attributes:
        numbers, tags: (n_atoms,) int64.
        system_idx: (n_atoms,) int64.
        n_systems: number of structures.
        index: the edges.
        edge_vec: (n_edges, 3) Angstrom in the frame of each structure.
    """

    numbers: Tensor
    tags: Tensor
    system_idx: Tensor
    n_systems: int
    index: EdgeIndex
    edge_vec: Tensor


@dataclass(frozen=True, kw_only=True)
class NetworkOutput:
    """What a network says, in its own units and in the frame of each structure.

    Attributes:
        energy: (n_systems,).
        forces: (n_atoms, 3) of a direct head, or None.
    """

    energy: Tensor
    forces: Tensor | None = None


class Network(Protocol):
    """A module from `NetworkInput` to `NetworkOutput`."""

    cutoff: float
    max_neighbors: int | None

    def __call__(self, inputs: NetworkInput) -> NetworkOutput:
        """Energies (and direct forces) of the batch."""
        ...
