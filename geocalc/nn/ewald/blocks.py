"""Network layers of Ewald message passing, which couple all atoms of a structure by Fourier waves.

With S(k) = sum_j g_j exp(-i k.x_j), the structure factor of features g = Residual(h),

    message_i = sum_k Re[exp(i k.x_i) S(k)] W(k),
    update_i = Residual(...Dense(message_i)),

where W has rank `down_size`: it is the product of a factor common to all layers and a factor of
each layer. In a molecule, averaged over the directions of k,

    message_i = sum_j g_j sum_k W(k) sin(k r_ij) / (k r_ij).

With `drop_subsurface`, atoms that are removed from the graph do not contribute to structure
factors.

Source: Kosmala et al., Ewald-based long-range message passing for molecular graphs (ICML 2023). The
published sum is over half of the k without division by the volume, and the published filter depends
on the indices of k; `filter: index` is the published method.
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

INDEX_SCALE = 0.01  # factor on the messages of an indexed filter, as published

# function from values (n_atoms, width) and up (width, down_size) to messages (n_atoms, width)
LongRange = Callable[[Tensor, Tensor], Tensor]


class EwaldFilter(nn.Module):
    """Factor of the filter that is common to all layers; see `EwaldSettings`.

    Args:
        settings: settings of Ewald message passing.
    """

    def __init__(self, settings: EwaldSettings) -> None:
        super().__init__()
        self.k_cutoff, self.filter = settings.k_cutoff, settings.filter
        # Angstrom^3; normalizes a constant filter of one: the contribution of an atom to its own
        # message is then one times its features
        self.scale = 6 * math.pi**2 / settings.k_cutoff**3
        self.basis = GaussianBasis(settings.num_radial, settings.k_cutoff)
        n_x, n_y, n_z = settings.grid
        n_waves = ((2 * n_x + 1) * (2 * n_y + 1) * (2 * n_z + 1) - 1) // 2
        n_features = settings.num_radial if settings.filter is Filter.RADIAL else n_waves
        self.down = nn.Linear(n_features, settings.down_size, bias=False)

    def forward(self, waves: Waves | None) -> LongRange:
        """Return the function that computes the messages of a batch for any layer.

        Raises:
            InputError: `waves` is None; `geocalc.potentials.network.evaluate` computes them.
        """
        if waves is None:
            raise InputError(
                "this network has Ewald message passing and got no waves; pass those of"
                " geocalc.nn.ewald.waves.make_waves"
            )
        plane, pairs = waves.plane, waves.pairs
        parts: list[LongRange] = []
        if plane is not None:
            parts.append(
                plane_messages(
                    plane.layout,
                    plane.cosines,
                    plane.sines,
                    self._filters(plane.lengths, plane.weights),
                )
            )
        if pairs is not None:
            filters = self._filters(pairs.lengths, pairs.weights)
            parts.append(
                pair_messages(pairs.layout, torch.einsum("sijk,kd->sdij", pairs.waves, filters[0]))
            )
        return (
            parts[0]
            if len(parts) == 1
            else lambda values, up: parts[0](values, up) + parts[1](values, up)
        )

    def _filters(self, lengths: Tensor, weights: Tensor) -> Tensor:
        """Return filters (n_rows, n_waves, down_size) of waves.

        Args:
            lengths: (n_rows, n_waves) 1/Angstrom.
            weights: (n_rows, n_waves) weights of the waves.
        """
        if self.filter is Filter.INDEX:
            return self.down.weight.T * (INDEX_SCALE * weights)[:, :, None]
        flat = lengths.flatten()
        features = (
            self.basis(flat)
            * (self.scale * weights.flatten() * polynomial_envelope(flat, self.k_cutoff))[:, None]
        )
        return self.down(features).view(*lengths.shape, self.down.out_features)


def plane_messages(layout: Layout, cosines: Tensor, sines: Tensor, filters: Tensor) -> LongRange:
    """Return the function that computes messages from structure factors.

    See the equation of the module.

    Args:
        layout: layout of padded arrays.
        cosines: (n_rows, n_max, n_waves).
        sines: (n_rows, n_max, n_waves).
        filters: (n_rows, n_waves, down_size).
    """

    def messages(values: Tensor, up: Tensor) -> Tensor:
        padded, full_filters = layout.pad(values), filters @ up.T
        even = (cosines.transpose(1, 2) @ padded) * full_filters
        odd = (sines.transpose(1, 2) @ padded) * full_filters
        return layout.unpad(cosines @ even + sines @ odd)

    return messages


def pair_messages(layout: Layout, kernels: Tensor) -> LongRange:
    """Return the function that computes messages between all pairs of atoms of a molecule.

    Args:
        layout: layout of padded arrays.
        kernels: (n_rows, down_size, n_max, n_max), one for each rank of the filter.
    """

    def messages(values: Tensor, up: Tensor) -> Tensor:
        sums = kernels @ layout.pad(values)[:, None]
        return layout.unpad((sums * up.T[:, None]).sum(1))

    return messages


class EwaldBlock(nn.Module):
    """Long-range update of one layer.

    Args:
        width: number of node features H.
        settings: settings of Ewald message passing.
    """

    def __init__(self, width: int, settings: EwaldSettings) -> None:
        super().__init__()
        self.before = Residual(width)
        self.up = nn.Linear(settings.down_size, width, bias=False)
        self.dense = nn.Linear(width, width, bias=False)
        self.after = nn.ModuleList(Residual(width) for _ in range(settings.num_hidden))

    def forward(self, hidden: Tensor, long_range: LongRange) -> Tensor:
        """Return the update of `hidden` without the residual, (n_atoms, width)."""
        update = swish(self.dense(long_range(self.before(hidden), self.up.weight)))
        for layer in self.after:
            update = layer(update)
        return update


class Residual(nn.Module):
    """h -> (h + swish(B swish(A h))) / sqrt(2), both layers without bias.

    Source: Gasteiger et al., GemNet (2021), the residual layers used by Ewald message passing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.last = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Update features (n_atoms, width)."""
        return (hidden + swish(self.last(swish(self.first(hidden))))) / math.sqrt(2.0)
