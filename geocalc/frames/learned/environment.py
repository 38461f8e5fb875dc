"""Local environments of atoms, the input of learned canonicalizers.

Published canonicalizers use positions relative to their centroid, which in a periodic structure
depend on the image in which an atom is stored. Here each atom has a vector instead, a weighted sum
over its edges; it vanishes as well if the environment of the atom is inversion symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geocalc.frames.learned.base import Geometry


@dataclass(frozen=True, kw_only=True)
class LocalEnvironment:
    """Edges within a reach and one vector for each atom, in the floating type of the positions.

    All floating-point fields are differentiable.

    Attributes:
        edge_vec: (n_edges, 3) Angstrom, center to neighbor.
        weights: (n_edges,) (1 - d^2 / reach^2)^3, which vanishes with its first two derivatives at
            the reach.
        senders: (n_edges,) int64, neighbors.
        receivers: (n_edges,) int64, centers.
        vectors: (n_atoms, 3) Angstrom, sum_j weight_ij 2 Z_j / (Z_i + Z_j) edge_vec_ij.
        numbers: (n_atoms,) int64 atomic numbers.
        system_idx: (n_atoms,) int64, structure of each atom.
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

    def mean_over_neighbors(self, values: Tensor) -> Tensor:
        """Return weighted means of edge values (n_edges, 3, channels) over neighbors.

        The sum of weights includes an additional neighbor with value zero and weight one, which
        keeps the mean smooth where the last edge of an atom vanishes.
        """
        weights = self.weights[:, None, None]
        total_weight = self.weights.new_ones(len(self.numbers)).index_add(
            0, self.receivers, self.weights
        )
        total = values.new_zeros((len(self.numbers), *values.shape[1:])).index_add(
            0, self.receivers, weights * values
        )
        return total / total_weight[:, None, None]

    def mean_over_atoms(self, values: Tensor) -> Tensor:
        """Return means over the atoms of each structure: (n_atoms, ...) to (n_systems, ...)."""
        count = (
            values.new_zeros(self.n_systems)
            .index_add(0, self.system_idx, values.new_ones(len(values)))
            .clamp(min=1)
        )
        total = values.new_zeros((self.n_systems, *values.shape[1:])).index_add(
            0, self.system_idx, values
        )
        return total / count.reshape(-1, *([1] * (values.dim() - 1)))


def local_environment(geometry: Geometry, reach: float) -> LocalEnvironment:
    """Return the local environments of a batch from edges shorter than `reach` in Angstrom."""
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
    return LocalEnvironment(
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
