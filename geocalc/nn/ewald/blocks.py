"""Ewald message passing: every atom hears every other one through the waves of its structure.

With S(k) = sum_j g_j exp(-i k.x_j), the structure factor of features g = Residual(h),

    message_i = sum_k Re[exp(i k.x_i) S(k)] W(k),     update_i = Residual(...Dense(message_i)),

where W has rank `down_size`: a part of each wave that all layers share, times one of each layer. In
a molecule, whose directions of k are averaged, message_i = sum_j g_j sum_k W(k) sin(k r_ij) / (k
r_ij).

With `drop_subsurface` the atoms that the network does not see are not in the structure factors
either.

Source: Kosmala et al., Ewald-based long-range message passing for molecular graphs (ICML 2023). Its
sum is over half of the k, not divided by the volume, and its filter is tied to the indices of k;
`filter: index` is that one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from geocalc.errors import InputError
from geocalc.nn.activation import swish
from geocalc.nn.basis import GaussianBasis, polynomial_envelope
from geocalc.nn.ewald.padding import Layout
from geocalc.nn.ewald.waves import EwaldSettings, Filter, Waves

INDEX_SCALE = 0.01  # published

# values (n_atoms, width) and up (width, down_size) to messages (n_atoms, width)
LongRange = Callable[[Tensor, Tensor], Tensor]


class EwaldFilter(nn.Module):
    """The part of the filter that all layers share; see `EwaldSettings`."""

    def __init__(self, settings: EwaldSettings) -> None:
        super().__init__()
        self.k_cutoff, self.filter = settings.k_cutoff, settings.filter
        self.scale = (
            6 * math.pi**2 / settings.k_cutoff**3
        )  # Angstrom^3; a filter of one would give an atom its own features once
        self.basis = GaussianBasis(settings.num_radial, settings.k_cutoff)
        n_x, n_y, n_z = settings.grid
        n_waves = ((2 * n_x + 1) * (2 * n_y + 1) * (2 * n_z + 1) - 1) // 2
        n_features = settings.num_radial if settings.filter is Filter.RADIAL else n_waves
        self.down = nn.Linear(n_features, settings.down_size, bias=False)

    def forward(self, waves: Waves | None) -> LongRange:
        """How messages of the layers are made of a batch.

        Raises:
            InputError: there are no waves; `geocalc.potentials.network.evaluate` makes them.
        """
        if waves is None:
            raise InputError(
                "this network has Ewald message passing and was given no waves; see"
                " geocalc.nn.ewald.waves"
            )
        plane, pairs = waves.plane, waves.pairs
        parts: list[LongRange] = []
        if plane is not None:
            parts.append(
                plane_messages(
                    plane.layout,
                    plane.cosines,
                    plane.sines,
                    self._low(plane.lengths, plane.weights),
                )
            )
        if pairs is not None:
            low = self._low(pairs.lengths, pairs.weights)
            parts.append(
                pair_messages(pairs.layout, torch.einsum("sijk,kd->sdij", pairs.waves, low[0]))
            )
        return (
            parts[0]
            if len(parts) == 1
            else lambda values, up: parts[0](values, up) + parts[1](values, up)
        )

    def _low(self, lengths: Tensor, weights: Tensor) -> Tensor:
        """Filters (n_rows, n_waves, down_size) of waves of given lengths and weights, both (n_rows,
        n_waves).
        """
        if self.filter is Filter.INDEX:
            return self.down.weight.T * (INDEX_SCALE * weights)[:, :, None]
        flat = lengths.flatten()
        features = (
            self.basis(flat)
            * (self.scale * weights.flatten() * polynomial_envelope(flat, self.k_cutoff))[:, None]
        )
        return self.down(features).view(*lengths.shape, self.down.out_features)


def plane_messages(layout: Layout, cosines: Tensor, sines: Tensor, low: Tensor) -> LongRange:
    """Messages through structure factors; see the equation on top.

    Args:
        layout: of padded arrays.
        cosines, sines: (n_rows, n_max, n_waves).
        low: (n_rows, n_waves, down_size).
    """

    def messages(values: Tensor, up: Tensor) -> Tensor:
        padded, filters = layout.pad(values), low @ up.T
        even = (cosines.transpose(1, 2) @ padded) * filters
        odd = (sines.transpose(1, 2) @ padded) * filters
        return layout.unpad(cosines @ even + sines @ odd)

    return messages


def pair_messages(layout: Layout, kernels: Tensor) -> LongRange:
    """Messages between all pairs of a molecule.

    Args:
        layout: of padded arrays.
        kernels: (n_rows, down_size, n_max, n_max), one for each rank of the filter.
    """

    def messages(values: Tensor, up: Tensor) -> Tensor:
        heard = kernels @ layout.pad(values)[:, None]
        return layout.unpad((heard * up.T[:, None]).sum(1))

    return messages


class EwaldBlock(nn.Module):
    """The long-range update of one layer.

    Args:
        width: node features H.
        settings: see `EwaldSettings`.
    """

    def __init__(self, width: int, settings: EwaldSettings) -> None:
        super().__init__()
        self.before = Residual(width)
        self.up = nn.Linear(settings.down_size, width, bias=False)
        self.dense = nn.Linear(width, width, bias=False)
        self.after = nn.ModuleList(Residual(width) for _ in range(settings.num_hidden))

    def forward(self, hidden: Tensor, long_range: LongRange) -> Tensor:
        """The update (n_atoms, width) of `hidden`, without the residual."""
        update = swish(self.dense(long_range(self.before(hidden), self.up.weight)))
        for layer in self.after:
            update = layer(update)
        return update


class Residual(nn.Module):
    """h -> (h + swish(B swish(A h))) / sqrt(2), both layers without bias.

    Source: Gasteiger et al., GemNet (2021), whose residual layers Ewald message passing takes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.last = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Features (n_atoms, width) to the same."""
        return (hidden + swish(self.last(swish(self.first(hidden))))) / math.sqrt(2.0)
