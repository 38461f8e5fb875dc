"""The points that learned canonicalizers look at: edges that fade out, and one vector for each
atom.

Published canonicalizers look at positions seen from their centroid. In a periodic structure these
depend on the image in which an atom is stored; the sum over an atom's edges takes their place here,
as it is zero too where the surroundings of the atom are even.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geocalc.frames.learned.base import Geometry


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Edges within reach, in the floating type of the positions; everything but the index
    differentiable.

    Attributes:
        edge_vec: (n_edges, 3) Angstrom, center to neighbor.
        weights: (n_edges,) (1 - d^2 / reach^2)^3, which vanishes with its first two derivatives
            where an edge appears.
        senders, receivers: (n_edges,) int64.
        vectors: (n_atoms, 3) Angstrom, sum_j weight_ij 2 Z_j / (Z_i + Z_j) edge_vec_ij.
        numbers, system_idx: (n_atoms,) int64.
        n_systems: number of structures.
    """

    edge_vec: Tensor
    weights: Tensor
    senders: Tensor
    receivers: Tensor
    vectors: Tensor
    numbers: Tensor
    system_idx: Tensor
    n_systems: int

    def around(self, values: Tensor) -> Tensor:
        """Weighted means of edge values (n_edges, 3, channels) around each atom, one more neighbor
        of value zero counted.

        That neighbor keeps the mean smooth while the last edge of an atom vanishes.
        """
        weights = self.weights[:, None, None]
        crowding = self.weights.new_ones(len(self.numbers)).index_add(
            0, self.receivers, self.weights
        )
        total = values.new_zeros((len(self.numbers), *values.shape[1:])).index_add(
            0, self.receivers, weights * values
        )
        return total / crowding[:, None, None]

    def mean(self, values: Tensor) -> Tensor:
        """Means over the atoms of each structure: (n_atoms, ...) to (n_systems, ...)."""
        count = (
            values.new_zeros(self.n_systems)
            .index_add(0, self.system_idx, values.new_ones(len(values)))
            .clamp(min=1)
        )
        total = values.new_zeros((self.n_systems, *values.shape[1:])).index_add(
            0, self.system_idx, values
        )
        return total / count.reshape(-1, *([1] * (values.dim() - 1)))


def surroundings_of(geometry: Geometry, reach: float) -> Surroundings:
    """The edges of a batch that are shorter than `reach`, Angstrom."""
    graph, systems = geometry.graph, geometry.systems
    near = (geometry.edge_vec * geometry.edge_vec).sum(1).detach() < reach * reach
    edge_vec, senders, receivers = (
        geometry.edge_vec[near],
        graph.senders[near],
        graph.receivers[near],
    )
    weights = (1 - (edge_vec * edge_vec).sum(1) / reach**2) ** 3
    weights = weights if geometry.edge_weight is None else weights * geometry.edge_weight[near]
    numbers = systems.numbers.to(edge_vec.dtype)
    coefficients = weights * 2 * numbers[senders] / (numbers[senders] + numbers[receivers])
    return Surroundings(
        edge_vec=edge_vec,
        weights=weights,
        senders=senders,
        receivers=receivers,
        vectors=edge_vec.new_zeros((systems.n_atoms, 3)).index_add(
            0, receivers, coefficients[:, None] * edge_vec
        ),
        numbers=systems.numbers,
        system_idx=systems.system_idx,
        n_systems=systems.n_systems,
    )
