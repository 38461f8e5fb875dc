"""Build networks of relaxed convolutions on a cluster of points, with nothing in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from e3nn import o3
from torch import Tensor, nn

from geocalc.architectures import Convolution, RelaxedFilters, all_irreps
from geocalc.nn import EdgeIndex, GaussianBasis

N_BASIS, HIDDEN, N_RADIAL = 8, 16, 4
Made = TypeVar("Made", bound=nn.Module)


def drawn(make: Callable[[], Made], seed: int) -> Made:
    """A network in float64 with random weights of a seed; nobody else's random numbers change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Points in space and what they know.

    Attributes:
        features: (n, dim of their irreps).
        edge_vec: (n_edges, 3) from receiver to sender.
        index: who sends to whom.
    """

    features: Tensor
    edge_vec: Tensor
    index: EdgeIndex

    @classmethod
    def build(cls, positions: Tensor, features: Tensor, cutoff: float) -> Cluster:
        """Connect all points (n, 3) that are closer than `cutoff`."""
        vectors = positions[None] - positions[:, None]
        near = (vectors.norm(dim=2) < cutoff) & ~torch.eye(len(positions), dtype=torch.bool)
        receivers, senders = near.nonzero().T
        return cls(
            features=features,
            edge_vec=vectors[receivers, senders],
            index=EdgeIndex.build(senders, receivers, len(positions)),
        )

    @property
    def neighbors(self) -> float:
        """How many a point has on average."""
        return len(self.edge_vec) / self.index.n_atoms


class RelaxedStack(nn.Module):
    """h -> sum_j TP(h_j, e_ij; MLP(r_ij)) / neighbors^1/2, again and again, e_ij = TP(theta,
    Y(r_ij)); linear in the first h.

    Args:
        irreps: of features before, between and after the convolutions.
        l_harmonics: highest degree of Y.
        l_relaxed: highest degree of theta, 0 for an equivariant network.
        cutoff: of the radial basis.
        neighbors: of a point.

    Source: Hofgard et al., arXiv 2407.20471 (2024).
    """

    def __init__(
        self,
        irreps: tuple[str, ...],
        *,
        l_harmonics: int,
        l_relaxed: int,
        cutoff: float,
        neighbors: float,
    ) -> None:
        super().__init__()
        self.harmonics = o3.Irreps.spherical_harmonics(l_harmonics)
        self.basis = GaussianBasis(N_BASIS, cutoff)
        self.scale = 1 / math.sqrt(neighbors)
        self.filters, self.radial, self.convolutions = (
            nn.ModuleList(),
            nn.ModuleList(),
            nn.ModuleList(),
        )
        for before, after in pairwise(irreps):
            filters = RelaxedFilters(self.harmonics, all_irreps(l_relaxed))
            self.filters.append(filters)
            self.radial.append(
                nn.Sequential(
                    nn.Linear(N_BASIS, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, N_RADIAL), nn.SiLU()
                )
            )
            self.convolutions.append(
                Convolution(o3.Irreps(before), filters.irreps_out, o3.Irreps(after), N_RADIAL)
            )

    def forward(self, cluster: Cluster) -> Tensor:
        """Features after the last convolution, (n, dim)."""
        basis = self.basis(cluster.edge_vec.norm(dim=1))
        harmonics = o3.spherical_harmonics(
            self.harmonics, cluster.edge_vec, normalize=True, normalization="component"
        )
        hidden = cluster.features
        for filters, radial, convolution in zip(
            self.filters, self.radial, self.convolutions, strict=True
        ):
            hidden = convolution(
                hidden, radial(basis) * self.scale, harmonics, filters(), cluster.index
            )
        return hidden
