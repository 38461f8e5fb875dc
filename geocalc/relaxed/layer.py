"""Gated message passing with relaxed convolutions."""

from __future__ import annotations

import math

import torch
from e3nn import o3
from e3nn.nn import Gate
from torch import Tensor, nn

from geocalc.nn.activation import swish
from geocalc.nn.edges import EdgeIndex
from geocalc.relaxed.convolution import Convolution
from geocalc.relaxed.filters import RelaxedFilters


def make_gate(irreps: o3.Irreps) -> Gate:
    """Nonlinearity whose result has these irreps: 0e through SiLU, 0o through tanh, others times a gate of their own."""
    scalars = o3.Irreps([(copies, irrep) for copies, irrep in irreps if irrep.l == 0])
    gated = o3.Irreps([(copies, irrep) for copies, irrep in irreps if irrep.l > 0])
    gates = o3.Irreps([(gated.num_irreps, (0, 1))] if gated.num_irreps else [])
    acts = [swish if irrep.p == 1 else torch.tanh for _, irrep in scalars]
    return Gate(scalars, acts, gates, [torch.sigmoid] * len(gates), gated)


class RelaxedLayer(nn.Module):
    """h -> gate(W h + relaxed convolution of h), with radial features from a multilayer perceptron of a basis of lengths.

    Args:
        irreps_in, irreps_out: of features before and after. harmonics: of Y.
        filters: with the relaxed weights of this layer. n_basis: radial basis. hidden: of the perceptron. n_radial: its result.
        neighbours: about how many an atom has; sums over them are divided by its root.

    Source: gated message passing of e3nn, with the convolution of Hofgard et al., arXiv 2407.20471 (2024).
    """

    def __init__(
        self,
        irreps_in: o3.Irreps,
        irreps_out: o3.Irreps,
        filters: RelaxedFilters,
        n_basis: int,
        hidden: int,
        n_radial: int,
        neighbours: float,
    ) -> None:
        super().__init__()
        self.gate = make_gate(irreps_out)
        self.filters = filters
        self.radial = nn.Sequential(nn.Linear(n_basis, hidden), nn.SiLU(), nn.Linear(hidden, n_radial), nn.SiLU())
        self.convolution = Convolution(irreps_in, filters.irreps_out, self.gate.irreps_in, n_radial)
        self.alone = o3.Linear(irreps_in, self.gate.irreps_in)
        self.scale = 1 / math.sqrt(neighbours)

    def forward(self, features: Tensor, basis: Tensor, envelope: Tensor, harmonics: Tensor, index: EdgeIndex) -> Tensor:
        """Features (n_atoms, dim of irreps_out).

        Args:
            features: (n_atoms, dim of irreps_in). basis: (n_pairs, n_basis). envelope: (n_pairs, 1).
            harmonics: (n_edges, dim of Y). index: the edges.
        """
        radial = (self.radial(basis) * (envelope * self.scale)).index_select(0, index.pair_of)
        messages = self.convolution(features, radial, harmonics, self.filters(), index)
        return torch.as_tensor(self.gate(self.alone(features) + messages))
