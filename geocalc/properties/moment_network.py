"""Network of local moments, invariant to rotations and reflections.

It is small enough to be trained on few configurations.

Each layer describes the neighborhood of a particle i in channels c by moments of degree 0 to L,

    T_i,c^(l) = sum_j R_c(|r_ij|) (W h_j)_c  u_ij x ... x u_ij   (l times),   u = r / |r|.

A multilayer perceptron receives the moment of degree 0 and the lengths of the moments' components
that belong to Legendre polynomials,

    p_i,c^(l) = (sum_jk w_ij w_ik P_l(u_ij . u_ik))^1/2,   w_ij = R_c(|r_ij|) (W h_j)_c,

and its output is added to h_i. Angles enter without edges between edges, and vectors enter only
through their scalar products.

Sources: of moments, Shapeev, Multiscale Model. Simul. 14, 1153 (2016); of such descriptors for
propensities, Boattini, Smallenburg and Filion, Phys. Rev. Lett. 127, 088007 (2021).
"""

from __future__ import annotations

import math
from itertools import product
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.nn.basis import cosine_envelope
from geocalc.nn.edges import EdgeIndex
from geocalc.properties.base import GraphInput, PropertyLevel, PropertyNetwork
from geocalc.properties.node_features import mean_per_graph, node_features

SMALL = 1e-6  # keeps the derivative of a root finite where the moments vanish


class MomentNetworkSettings(Settings):
    """Settings of `MomentNetwork`; lengths in the unit of the edge vectors."""

    level: PropertyLevel = PropertyLevel.NODE
    n_types: int = Field(2, ge=1)
    n_features: int = Field(0, ge=0, description="numbers known of each node beside its type")
    n_targets: int = Field(1, ge=1)
    cutoff: float = Field(2.0, gt=0, description="of the edges, as they are made")
    num_gaussians: int = Field(24, ge=2)
    width: float = Field(1.0, gt=0, description="of the Gaussians, in units of their distance")
    degrees: tuple[Annotated[int, Field(ge=0, le=8)], ...] = Field(
        (4, 0, 0),
        min_length=1,
        description="highest degree of the moments in each layer; 0 averages over neighbors alone",
    )
    channels: int = Field(16, ge=1)
    hidden_channels: int = Field(64, ge=1)
    neighbors: float = Field(
        40.0, gt=0, description="about how many a particle has; moments are divided by its root"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of hidden numbers left out while training"
    )


class MomentNetwork(PropertyNetwork):
    """Network of local moments; see `MomentNetworkSettings`."""

    centers: Tensor

    def __init__(self, settings: MomentNetworkSettings) -> None:
        super().__init__()
        s = settings
        self.settings = s
        self.level, self.n_types, self.n_targets = s.level, s.n_types, s.n_targets
        self.embed = nn.Linear(s.n_types + s.n_features, s.hidden_channels)
        self.layers = nn.ModuleList(MomentLayer(s, degree) for degree in s.degrees)
        self.decode = nn.Sequential(
            nn.Linear(s.hidden_channels, s.hidden_channels),
            nn.SiLU(),
            nn.Linear(s.hidden_channels, s.n_targets),
        )
        self.register_buffer(
            "centers", torch.linspace(0, s.cutoff, s.num_gaussians), persistent=False
        )

    def forward(self, inputs: GraphInput) -> Tensor:
        """Predict properties, (n_nodes, n_targets), or (n_graphs, n_targets) at graph level.

        At graph level hidden features are averaged before the decoder.

        Raises:
            InputError: the edges have no vectors, or node types or features do not match the
                settings.
        """
        s, dtype = self.settings, self.embed.weight.dtype
        if inputs.edge_vec is None:
            raise InputError(
                "the graphs have no edge vectors, which a network of moments needs: give edge_vec,"
                " or choose gcn"
            )
        hidden = self.embed(
            node_features(inputs, s.n_types, s.n_features, one_hot=True, dtype=dtype)
        )
        neighbors = _padded(inputs.index, inputs.edge_vec.to(dtype))
        spacing = s.cutoff / (s.num_gaussians - 1) * s.width
        radial = torch.exp(-0.5 * ((neighbors.length[..., None] - self.centers) / spacing) ** 2)
        radial = radial * (cosine_envelope(neighbors.length, s.cutoff) * neighbors.real)[..., None]
        powers = monomials(neighbors.unit, max(s.degrees))
        for layer in self.layers:
            hidden = hidden + layer(hidden, inputs.types, radial, powers, neighbors.senders)
        return self.decode(
            mean_per_graph(hidden, inputs) if self.level is PropertyLevel.GRAPH else hidden
        )


class MomentLayer(nn.Module):
    """One update of the hidden features; see the equations of the module."""

    legendre: Tensor
    weights: Tensor

    def __init__(self, settings: MomentNetworkSettings, degree: int) -> None:
        super().__init__()
        s = settings
        self.degree, self.scale = degree, 1 / math.sqrt(s.neighbors)
        self.radial = nn.Linear(s.num_gaussians, s.channels, bias=False)
        self.send = nn.Linear(s.hidden_channels, s.channels)
        told = s.channels * (degree + 1)
        self.norm = TypeNorm(s.n_types, told)
        self.update = nn.Sequential(
            nn.Linear(s.hidden_channels + told, s.hidden_channels),
            nn.SiLU(),
            nn.Dropout(s.dropout),
            nn.Linear(s.hidden_channels, s.hidden_channels),
        )
        self.register_buffer("legendre", legendre_coefficients(degree), persistent=False)
        self.register_buffer(
            "weights",
            torch.cat([monomial_multiplicities(order) for order in range(degree + 1)]),
            persistent=False,
        )

    def forward(
        self, hidden: Tensor, types: Tensor, radial: Tensor, powers: Tensor, senders: Tensor
    ) -> Tensor:
        """Compute the update of `hidden`, (n_nodes, hidden).

        Args:
            hidden: (n_nodes, hidden).
            types: (n_nodes,).
            radial: (n_nodes, k, n_gaussians), radial basis functions, zero for padded neighbors.
            powers: (n_nodes, k, monomials) of the directions.
            senders: (n_nodes, k), neighbors padded to k.
        """
        weight = self.radial(radial) * self.send(hidden)[senders]
        if self.degree == 0:
            return self._updated(hidden, weight.sum(1) * self.scale, types)
        moments = (
            torch.matmul(weight.transpose(1, 2), powers[..., : len(self.weights)]) * self.scale
        )
        squares = (moments.square() * self.weights).split(
            [(order + 1) * (order + 2) // 2 for order in range(self.degree + 1)], dim=2
        )
        powers_of_cosine = torch.stack([part.sum(2) for part in squares], dim=2)
        lengths = (powers_of_cosine @ self.legendre.T).clamp(min=0) + SMALL
        told = torch.cat([moments[..., :1], lengths[..., 1:].sqrt()], dim=2).flatten(1)
        return self._updated(hidden, told, types)

    def _updated(self, hidden: Tensor, told: Tensor, types: Tensor) -> Tensor:
        return self.update(torch.cat([hidden, self.norm(told, types)], dim=1))


class TypeNorm(nn.Module):
    """Normalization of node features by mean and standard deviation of each type.

    In training, mean and variance are those of the batch; their running averages are used in
    evaluation.

    Args:
        n_types: number of node types.
        n_columns: number of features of each node.
        momentum: weight of the last batch in the running average.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, n_types: int, n_columns: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(n_types, n_columns))
        self.register_buffer("variance", torch.ones(n_types, n_columns))

    def forward(self, values: Tensor, types: Tensor) -> Tensor:
        """Normalize features (n_nodes, n_columns)."""
        if not self.training:
            return (values - self.mean[types]) * (self.variance[types] + SMALL).rsqrt()
        n_types = self.mean.shape[0]
        counts = values.new_zeros(n_types).index_add(0, types, values.new_ones(len(types)))[:, None]
        mean = values.new_zeros(self.mean.shape).index_add(0, types, values) / counts.clamp(min=1)
        away = values - mean[types]
        variance = values.new_zeros(self.mean.shape).index_add(
            0, types, away.square()
        ) / counts.clamp(min=1)
        with torch.no_grad():
            share = self.momentum * (counts > 1).to(values)
            self.mean += share * (mean - self.mean)
            self.variance += share * (variance - self.variance)
        return away * (variance[types] + SMALL).rsqrt()


class _Neighbors:
    """Edges of each node, padded to the same number k.

    Attributes:
        senders: (n_nodes, k).
        real: (n_nodes, k), 1 for a neighbor, 0 for padding and for self-loops.
        length: (n_nodes, k).
        unit: (n_nodes, k, 3), unit vectors.
    """

    def __init__(self, senders: Tensor, real: Tensor, length: Tensor, unit: Tensor) -> None:
        self.senders, self.real, self.length, self.unit = senders, real, length, unit


def _padded(index: EdgeIndex, edge_vec: Tensor) -> _Neighbors:
    n, n_edges = index.n_atoms, index.receivers.shape[0]
    place = (
        torch.arange(n_edges, device=index.receivers.device)
        - index.receiver_offsets[index.receivers]
    )
    k = int(place.max()) + 1 if n_edges else 1
    where = index.receivers * k + place
    senders = index.receivers.new_zeros(n * k).index_copy(0, where, index.senders).view(n, k)
    vectors = edge_vec.new_zeros(n * k, 3).index_copy(0, where, edge_vec).view(n, k, 3)
    length = vectors.norm(dim=2)
    real = (length > 0).to(length)
    return _Neighbors(senders, real, length, vectors / (length + (1 - real))[..., None])


def monomial_exponents(degree: int) -> list[tuple[int, int, int]]:
    """List the exponents (a, b, c) of the monomials x^a y^b z^c of a degree, in a fixed order."""
    return [
        (a, b, degree - a - b) for a, b in product(range(degree + 1), repeat=2) if a + b <= degree
    ]


def monomial_multiplicities(degree: int) -> Tensor:
    """Compute the multiplicity degree! / (a! b! c!) of each monomial in the tensor u x ... x u."""
    f = math.factorial
    return torch.tensor(
        [f(degree) / (f(a) * f(b) * f(c)) for a, b, c in monomial_exponents(degree)],
        dtype=torch.float32,
    )


def monomials(unit: Tensor, degree: int) -> Tensor:
    """Evaluate all monomials of degree 0 to `degree` of unit vectors (..., 3).

    Returns:
        (..., (L+1)(L+2)(L+3)/6), ordered by degree.
    """
    x, y, z = ([torch.ones_like(unit[..., 0])] for _ in range(3))
    for axis, powers in enumerate((x, y, z)):
        for _ in range(degree):
            powers.append(powers[-1] * unit[..., axis])
    return torch.stack(
        [
            x[a] * y[b] * z[c]
            for order in range(degree + 1)
            for a, b, c in monomial_exponents(order)
        ],
        dim=-1,
    )


def legendre_coefficients(degree: int) -> Tensor:
    """Compute the coefficients of the Legendre polynomials, (degree + 1, degree + 1).

    Row l holds the coefficients of the powers of t in P_l(t).
    """
    rows = np.zeros((degree + 1, degree + 1))
    for order in range(degree + 1):
        rows[order, : order + 1] = np.polynomial.legendre.leg2poly(np.eye(order + 1)[order])
    return torch.from_numpy(rows).float()
