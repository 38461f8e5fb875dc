"""Frames from principal axes whose signs do not matter.

Principal axes are determined up to their signs. A function that is even in the sign of an axis
cannot say which end is which; one that is odd, as sum_i t_ik g(t_ik^2, ...) with t_ik the
coordinate of point i on axis k, times the axis itself, is a vector that turns with the structure
and knows nothing of the sign. The published networks act on the rows of the matrix of axes, each of
which mixes the three axes, and see no points; these act on coordinates of points, axis by axis.

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
from geocalc.frames.learned.orient import FrameVectors, oriented
from geocalc.frames.learned.settings import (
    CanonicalizerSettings,
    SignNetMLPSettings,
    VectorNeuronSettings,
)
from geocalc.frames.learned.surroundings import Surroundings, surroundings_of
from geocalc.frames.learned.vn_pointnet import PointNet, edge_channels
from geocalc.frames.pca import NO_EXTENT
from geocalc.frames.policy import Frames
from geocalc.nn.activation import swish

N_FEATURES = 3  # of an atom on an axis, and of what the networks make of them
SHORTEST = 1e-6  # Angstrom; keeps the slope of a zero length finite
# share of the other axes in the vector of each; without, vectors from one network are all but
# parallel
LEAN = 0.5
# share of the squared extent; axes with less of it are not stretched to the others' size
THINNEST = 1e-4


class SignNetMLP(Canonicalizer):
    """Two perceptrons: mu(kappa(t) + kappa(-t)) weighs the coordinate t of each atom's vector on
    each axis; 454 parameters.

    The weights are three numbers, of three vectors, each leaning to the axis of its number.
    Coordinates are in units of their root mean square on the axis, so that the plane of a slab
    counts as its normal does. Beside the coordinate kappa sees the length of the vector and the
    atomic number.

    Args:
        settings: its shape.
        cutoff: Angstrom, of the network.
    """

    def __init__(self, settings: SignNetMLPSettings, cutoff: float) -> None:
        super().__init__()
        self.settings, self.reach = settings, min(settings.reach, cutoff)
        self.kappa = Perceptron(settings.hidden_channels)
        self.mu = Perceptron(settings.hidden_channels)

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """See `Canonicalizer`; nothing is drawn."""
        return frames_on_axes(self.vectors, geometry, self.settings, self.reach)

    def vectors(self, near: Surroundings, axes: Tensor) -> Tensor:
        """Three vectors of each atom, (n_atoms, 3, 3) in columns, whatever the signs of the axes
        (n_systems, 3, 3).
        """
        axes = axes[near.system_idx]
        along = torch.einsum("ai,aik->ak", near.vectors, axes)
        square = near.mean(along * along)
        least = (THINNEST * square.sum(1, keepdim=True)).clamp(min=SHORTEST**2)
        along = along * (square + least).rsqrt()[near.system_idx]
        length = (
            ((near.vectors * near.vectors).sum(1, keepdim=True) + SHORTEST**2)
            .sqrt()
            .expand_as(along)
        )
        number = near.numbers.to(along.dtype).log()[:, None].expand_as(along)
        there, back = (
            self.kappa(torch.stack([sign * along, length, number], dim=2)) for sign in (1, -1)
        )
        leaning = LEAN + (1 - LEAN) * torch.eye(3).to(along)
        return axes @ (leaning * along[:, :, None] * self.mu(there + back))


class SignNetVN(Canonicalizer):
    """Two vector-neuron PointNets in the frame of the axes; 2,620 parameters at width 64.

    Squares of what the first one gives, summed over channels, weigh the axes one against the other;
    the second one gives the vectors from coordinates stretched so. Layers of vector neurons let
    through every orthogonal matrix and so every choice of signs; a stretch along the axes does too,
    and is what the axes are for. No cross products: they let through rotations only.

    Args:
        settings: its shape.
        cutoff: Angstrom, of the network.
    """

    def __init__(self, settings: VectorNeuronSettings, cutoff: float) -> None:
        super().__init__()
        self.settings, self.reach = settings, min(settings.reach, cutoff)
        self.kappa = PointNet(settings.width)
        self.mu = PointNet(settings.width)

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """See `Canonicalizer`; nothing is drawn."""
        return frames_on_axes(self.vectors, geometry, self.settings, self.reach)

    def vectors(self, near: Surroundings, axes: Tensor) -> Tensor:
        """Three vectors of each atom, (n_atoms, 3, 3) in columns, whatever the signs of the axes
        (n_systems, 3, 3).
        """
        axes = axes[near.system_idx]
        edges = axes[near.receivers].transpose(1, 2) @ edge_channels(near, cross=False)
        square = near.mean((self.kappa(edges, near) ** 2).sum(2))
        stretch = square / square.mean(1, keepdim=True).clamp(min=torch.finfo(square.dtype).tiny)
        stretched = edges * stretch[near.system_idx[near.receivers]][:, :, None]
        return axes @ self.mu(stretched, near)[:, :, :3]


def frames_on_axes(
    vectors: Callable[[Surroundings, Tensor], Tensor],
    geometry: Geometry,
    settings: CanonicalizerSettings,
    reach: float,
) -> Frames:
    """Frames along the mean of what `vectors` gives each atom, from its surroundings within `reach`
    and the axes of its structure.
    """
    near = surroundings_of(geometry, reach)
    axes, tied = local_axes(near, settings.dimensions)
    found = FrameVectors.mean_of(vectors(near, axes), near)
    return oriented(replace(found, tied=tied), geometry, settings.dimensions, settings.proper)


class Perceptron(nn.Module):
    """Two layers between three numbers and three, in the floating type of its input."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(N_FEATURES, hidden), nn.Linear(hidden, N_FEATURES)

    def forward(self, values: Tensor) -> Tensor:
        """(..., 3) to (..., 3)."""
        for layer, activation in ((self.first, swish), (self.last, nn.Identity())):
            values = activation(
                functional.linear(
                    values, layer.weight.to(values.dtype), layer.bias.to(values.dtype)
                )
            )
        return values


def local_axes(near: Surroundings, dimensions: int) -> tuple[Tensor, Tensor]:
    """Principal axes of the vectors of a structure's atoms, (n_systems, 3, 3) in columns, and where
    two are tied, (n_systems,).

    With `dimensions` 2 those of their parts in the plane, and z. The signs are any.
    """
    flat = near.vectors[:, :dimensions]
    covariance = near.mean(flat[:, :, None] * flat[:, None, :])
    floor = (
        NO_EXTENT
        * torch.finfo(flat.dtype).eps
        * torch.diagonal(covariance.detach(), dim1=1, dim2=2).sum(1)
    )
    values, axes = principal_axes(covariance, floor)
    gaps, larger = values[:, :-1] - values[:, 1:], values[:, :-1]
    tied = (gaps <= torch.maximum(TIE_TOLERANCE * larger, floor[:, None])).any(1)
    whole = torch.eye(3).to(axes).repeat(near.n_systems, 1, 1)
    whole[:, :dimensions, :dimensions] = axes
    return whole, tied
