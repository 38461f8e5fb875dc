"""Products of an atom's messages with one another, which tell the angles between its neighbors."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn

from geocalc.architectures.regnn.blocks import EquivariantLinear
from geocalc.nn.irreps import o3

SQUASH = 4.0  # mean square of a channel above which it grows no further in products


class Products(nn.Module):
    """Linear map of products of up to `correlation` messages, channel by channel.

    A message is a sum over neighbors, so products of n messages depend on n neighbors at a time:
    distances for 1, angles for 2, dihedral angles for 3. They are cheap, as they are computed for
    atoms and not for edges. Channels are bounded before they are multiplied, so that atoms pushed
    together do not get arbitrarily large energies.

    Args:
        irreps_in: irreps of the messages.
        irreps_out: irreps of the result; those not in the messages are zero.
        channels: number of channels that are multiplied.
        correlation: largest number of factors, 2 or more.

    Source: Drautz, Phys. Rev. B 99, 014104 (2019); Batatia et al., MACE, arXiv 2206.07697 (2022).
    """

    def __init__(
        self, irreps_in: o3.Irreps, irreps_out: o3.Irreps, channels: int, correlation: int
    ) -> None:
        super().__init__()
        kinds = list(dict.fromkeys(irrep for _, irrep in irreps_in))
        self.kinds = o3.Irreps([(1, irrep) for irrep in kinds])
        self.channels = channels
        self.before = EquivariantLinear(irreps_in, _copies(self.kinds, channels))
        self.weights = nn.ParameterList()
        for number in range(correlation - 1):
            couplings, fan_in = _couplings(self.kinds, symmetric=number == 0)
            self.register_buffer(f"coupling_{number}", couplings.flatten(1), persistent=False)
            self.weights.append(torch.randn(channels, len(fan_in)) * fan_in.rsqrt())
        self.after = EquivariantLinear(
            _copies(self.kinds, channels * (correlation - 1)), irreps_out
        )
        for weight in self.after.parameters():
            nn.init.zeros_(weight)  # the network begins as one without products

    def forward(self, messages: Tensor) -> Tensor:
        """Map messages (n_atoms, dim of irreps_in) to (n_atoms, dim of irreps_out)."""
        single = self._by_channel(self.before(messages))
        single = single * torch.rsqrt(1 + single.square().mean(2, keepdim=True) / SQUASH)
        highest, made = single, []
        for number, weight in enumerate(self.weights):
            pairs = (highest[:, :, :, None] * single[:, :, None, :]).flatten(2)
            coupling = weight @ getattr(self, f"coupling_{number}").to(weight.dtype)
            highest = pairs @ coupling.view(self.channels, pairs.shape[2], -1)
            made.append(highest)
        all_made = torch.cat(made).transpose(0, 1)
        parts = [all_made[:, :, place].flatten(1) for place in self.kinds.slices()]
        result: Tensor = self.after(torch.cat(parts, dim=1))
        return result

    def _by_channel(self, features: Tensor) -> Tensor:
        """Arrange features as (channels, n_atoms, dim of kinds)."""
        widths = [irrep.dim for _, irrep in self.kinds]
        parts = features.split([self.channels * width for width in widths], dim=1)
        return torch.cat(
            [
                part.view(-1, self.channels, width).transpose(0, 1)
                for part, width in zip(parts, widths, strict=True)
            ],
            dim=2,
        )


def _copies(kinds: o3.Irreps, copies: int) -> o3.Irreps:
    return o3.Irreps([(copies, irrep) for _, irrep in kinds])


def _couplings(kinds: o3.Irreps, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Compute the couplings of two irreps to a third.

    Args:
        kinds: one of each irrep.
        symmetric: the factors are equal, so that each pair is needed once, and antisymmetric
            products are zero.
    Returns:
        (n_paths, dim of kinds * dim of kinds, dim of kinds), of unit variance, float64.
        (n_paths,), number of paths to the irrep that each leads to.
    """
    slices = kinds.slices()
    couplings: list[Tensor] = []
    leads_to: list[int] = []
    for (i, (_, first)), (j, (_, second)), (k, (_, made)) in product(enumerate(kinds), repeat=3):
        antisymmetric = first == second and made.l % 2
        if made not in first * second or (symmetric and (i > j or antisymmetric)):
            continue
        whole = torch.zeros(kinds.dim, kinds.dim, kinds.dim, dtype=torch.float64)
        whole[slices[i], slices[j], slices[k]] = o3.wigner_3j(
            first.l, second.l, made.l, dtype=torch.float64
        ) * math.sqrt(made.dim)
        couplings.append(whole.flatten(0, 1))
        leads_to.append(k)
    return torch.stack(couplings), torch.tensor([float(leads_to.count(k)) for k in leads_to])
