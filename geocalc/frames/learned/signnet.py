"""Frames from principal axes, independent of the signs of the axes.

Principal axes are determined up to their signs. A function that is even in the sign of an axis
cannot distinguish its ends. A function that is odd, such as sum_i t_ik g(t_ik^2, ...) with t_ik the
coordinate of point i along axis k, multiplied by the axis itself, is an equivariant vector
independent of the sign. The published networks act on the rows of the matrix of axes, each of which
mixes the three axes, and do not use points; the networks here act on the coordinates of points,
axis by axis.

Source: Lim et al., Sign and basis invariant networks for spectral graph representation learning
(2023); Lim et al., Expressive sign equivariant networks (2023); Puny et al., Frame averaging (2022)
for the axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from geocalc.frames.axes import TIE_TOLERANCE, principal_axes
from geocalc.frames.learned.base import Canonicalizer, Geometry
from geocalc.frames.learned.environment import LocalEnvironment, local_environment
from geocalc.frames.learned.orient import FrameVectors, frames_from_vectors
from geocalc.frames.learned.settings import (
    CanonicalizerSettings,
    SignNetMLPSettings,
    VectorNeuronSettings,
)
from geocalc.frames.learned.vn_pointnet import PointNet, edge_features
from geocalc.frames.pca import ZERO_EXTENT
from geocalc.frames.policy import Frames
from geocalc.nn.activation import swish

N_FEATURES = 3  # inputs and outputs of the perceptrons for each atom and axis
MIN_LENGTH = 1e-6  # Angstrom; keeps the derivative of a zero length finite
# weight of the other axes in the vector of each axis; without it vectors from one network would be
# nearly parallel
MIXING = 0.5
# fraction of the squared extent below which coordinates along an axis are not scaled to unit size
MIN_EXTENT = 1e-4


class SignNetMLP(Canonicalizer):
    """Canonicalizer of two perceptrons; 454 parameters.

    mu(kappa(t) + kappa(-t)) is the weight of the coordinate t of each atom's vector along each
    axis. It consists of three numbers, for three vectors; vector k favors axis k. Coordinates are
    in units of their root mean square along the axis, so the plane of a slab and its normal have
    equal weight. The other inputs of kappa are the length of the vector and the atomic number.

    Args:
        settings: settings of the canonicalizer.
        cutoff: Angstrom, cutoff of the network.
    """

    def __init__(self, settings: SignNetMLPSettings, cutoff: float) -> None:
        super().__init__()
        self.settings, self.reach = settings, min(settings.reach, cutoff)
        self.kappa = Perceptron(settings.hidden_channels)
        self.mu = Perceptron(settings.hidden_channels)

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """Return the frames; `draws` is not used."""
        return frames_on_axes(self.vectors, geometry, self.settings, self.reach)

    def vectors(self, environment: LocalEnvironment, axes: Tensor) -> Tensor:
        """Return three vectors of each atom, (n_atoms, 3, 3) in columns.

        Independent of the signs of the axes (n_systems, 3, 3).
        """
        axes = axes[environment.system_idx]
        along = torch.einsum("ai,aik->ak", environment.vectors, axes)
        square = environment.mean_over_atoms(along * along)
        least = (MIN_EXTENT * square.sum(1, keepdim=True)).clamp(min=MIN_LENGTH**2)
        along = along * (square + least).rsqrt()[environment.system_idx]
        length = (
            ((environment.vectors * environment.vectors).sum(1, keepdim=True) + MIN_LENGTH**2)
            .sqrt()
            .expand_as(along)
        )
        number = environment.numbers.to(along.dtype).log()[:, None].expand_as(along)
        plus, minus = (
            self.kappa(torch.stack([sign * along, length, number], dim=2)) for sign in (1, -1)
        )
        mixing = MIXING + (1 - MIXING) * torch.eye(3).to(along)
        return axes @ (mixing * along[:, :, None] * self.mu(plus + minus))


class SignNetVN(Canonicalizer):
    """Canonicalizer of two vector-neuron PointNets in the frame of the principal axes.

    2,620 parameters at width 64.

    The squares of the output of the first network, summed over channels, are stretch factors of the
    axes; the second network computes the vectors from the stretched coordinates. Vector-neuron
    layers are equivariant under every orthogonal matrix, therefore under every choice of signs; a
    stretch along the axes is equivariant under sign changes only, which makes use of the axes.
    Cross products are not used, because they are equivariant under proper rotations only.

    Args:
        settings: settings of the canonicalizer.
        cutoff: Angstrom, cutoff of the network.
    """

    def __init__(self, settings: VectorNeuronSettings, cutoff: float) -> None:
        super().__init__()
        self.settings, self.reach = settings, min(settings.reach, cutoff)
        self.kappa = PointNet(settings.width)
        self.mu = PointNet(settings.width)

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """Return the frames; `draws` is not used."""
        return frames_on_axes(self.vectors, geometry, self.settings, self.reach)

    def vectors(self, environment: LocalEnvironment, axes: Tensor) -> Tensor:
        """Return three vectors of each atom, (n_atoms, 3, 3) in columns.

        Independent of the signs of the axes (n_systems, 3, 3).
        """
        axes = axes[environment.system_idx]
        edges = axes[environment.receivers].transpose(1, 2) @ edge_features(
            environment, cross=False
        )
        square = environment.mean_over_atoms((self.kappa(edges, environment) ** 2).sum(2))
        stretch = square / square.mean(1, keepdim=True).clamp(min=torch.finfo(square.dtype).tiny)
        stretched = edges * stretch[environment.system_idx[environment.receivers]][:, :, None]
        return axes @ self.mu(stretched, environment)[:, :, :3]


def frames_on_axes(
    vectors: Callable[[LocalEnvironment, Tensor], Tensor],
    geometry: Geometry,
    settings: CanonicalizerSettings,
    reach: float,
) -> Frames:
    """Return frames from the mean vectors of the atoms of each structure.

    Args:
        vectors: function from the local environments and the principal axes (n_systems, 3, 3) to
            vectors of the atoms (n_atoms, 3, 3).
        geometry: the batch.
        settings: dimensions and proper.
        reach: Angstrom, range of the local environments.
    """
    environment = local_environment(geometry, reach)
    axes, tied = environment_axes(environment, settings.dimensions)
    found = FrameVectors.mean_of(vectors(environment, axes), environment)
    return frames_from_vectors(
        replace(found, tied=tied), geometry, settings.dimensions, settings.proper
    )


class Perceptron(nn.Module):
    """Two linear layers from three numbers to three, in the floating type of the input."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(N_FEATURES, hidden), nn.Linear(hidden, N_FEATURES)

    def forward(self, values: Tensor) -> Tensor:
        """Map values (..., 3) to (..., 3)."""
        for layer, activation in ((self.first, swish), (self.last, nn.Identity())):
            values = activation(
                functional.linear(
                    values, layer.weight.to(values.dtype), layer.bias.to(values.dtype)
                )
            )
        return values


def environment_axes(environment: LocalEnvironment, dimensions: int) -> tuple[Tensor, Tensor]:
    """Return the principal axes of the vectors of each structure's atoms, and whether two are tied.

    With `dimensions` 2 the axes are those of the components in the plane, and z. Signs are
    arbitrary.

    Returns:
        Axes (n_systems, 3, 3) in columns, and ties (n_systems,) bool.
    """
    vectors = environment.vectors[:, :dimensions]
    covariance = environment.mean_over_atoms(vectors[:, :, None] * vectors[:, None, :])
    floor = (
        ZERO_EXTENT
        * torch.finfo(vectors.dtype).eps
        * torch.diagonal(covariance.detach(), dim1=1, dim2=2).sum(1)
    )
    values, axes = principal_axes(covariance, floor)
    gaps, larger = values[:, :-1] - values[:, 1:], values[:, :-1]
    tied = (gaps <= torch.maximum(TIE_TOLERANCE * larger, floor[:, None])).any(1)
    all_axes = torch.eye(3).to(axes).repeat(environment.n_systems, 1, 1)
    all_axes[:, :dimensions, :dimensions] = axes
    return all_axes, tied
