"""Gated message passing with relaxed convolutions."""

from __future__ import annotations

import math

from torch import Tensor, nn

from geocalc.architectures.regnn.blocks import EquivariantLinear, Gate
from geocalc.architectures.regnn.convolution import Convolution, Kinds
from geocalc.architectures.regnn.filters import RelaxedFilters
from geocalc.architectures.regnn.products import Products
from geocalc.nn.edges import EdgeIndex
from geocalc.nn.irreps import o3


class RelaxedLayer(nn.Module):
    """Layer h -> gate(W h + relaxed convolution of h).

    Radial features are a multilayer perceptron of radial basis functions.

    Args:
        irreps_in: irreps of the features before the layer.
        irreps_out: irreps of the features after the layer.
        filters: edge filters with the relaxed weights of this layer.
        n_basis: number of radial basis functions.
        hidden: width of the perceptron.
        n_radial: number of radial features.
        neighbors: typical number of neighbors; sums over neighbors are divided by its root.
        correlation: largest number of messages that are multiplied.
        product_channels: number of channels of the products.

    Source: gated message passing of e3nn, with the convolution of Hofgard et al., arXiv 2407.20471
    (2024).
    """

    def __init__(
        self,
        irreps_in: o3.Irreps,
        irreps_out: o3.Irreps,
        filters: RelaxedFilters,
        n_basis: int,
        hidden: int,
        n_radial: int,
        neighbors: float,
        correlation: int = 1,
        product_channels: int = 32,
    ) -> None:
        super().__init__()
        self.gate = Gate(irreps_out)
        self.filters = filters
        self.radial = nn.Sequential(
            nn.Linear(n_basis, hidden), nn.SiLU(), nn.Linear(hidden, n_radial), nn.SiLU()
        )
        self.convolution = Convolution(irreps_in, filters.irreps_out, self.gate.irreps_in, n_radial)
        self.alone = EquivariantLinear(irreps_in, self.gate.irreps_in)
        made = self.gate.irreps_in
        self.products = (
            Products(made, made, product_channels, correlation) if correlation > 1 else None
        )
        self.scale = 1 / math.sqrt(neighbors)

    def forward(
        self,
        features: Tensor | Kinds,
        basis: Tensor,
        envelope: Tensor,
        harmonics: Tensor,
        index: EdgeIndex,
    ) -> Tensor:
        """Compute new features (n_atoms, dim of irreps_out).

        Args:
            features: (n_atoms, dim of irreps_in), or those of kinds of atoms.
            basis: (n_pairs, n_basis) radial basis functions.
            envelope: (n_pairs, 1) cutoff envelope.
            harmonics: (n_edges, dim of Y).
            index: senders and receivers of the edges.
        """
        radial = (self.radial(basis) * (envelope * self.scale)).index_select(0, index.pair_of)
        messages = self.convolution(features, radial, harmonics, self.filters(), index)
        if self.products is not None:
            messages = messages + self.products(messages)
        if isinstance(features, Kinds):
            own = self.alone(features.features).index_select(0, features.of_atoms)
        else:
            own = self.alone(features)
        made: Tensor = self.gate(own + messages)
        return made
