"""Operations on the features of single atoms: equivariant linear maps and gates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geocalc.errors import InputError
from geocalc.nn.activation import swish
from geocalc.nn.irreps import o3

SWISH_SIZE = 1.6760  # keeps the mean square of standard normal numbers at one, as e3nn's gates do
TANH_SIZE = 1.5926
SIGMOID_SIZE = 1.8462


def read_irreps(text: str) -> o3.Irreps:
    """Parse irreps of O(3) such as `16x0e + 8x1o`; equal neighbors are merged.

    Raises:
        InputError: the text cannot be parsed.
    """
    try:
        return o3.Irreps(text).simplify()
    except (ValueError, AssertionError):
        raise InputError(
            f"irreps {text!r} cannot be read; write copies, degree and parity, such as 16x0e + 8x1o"
        ) from None


class EquivariantLinear(nn.Module):
    """Most general equivariant linear map: it mixes the copies of each irrep.

    Irreps of the result that do not occur in the input are zero.

    Args:
        irreps_in: irreps of the input features (n_atoms, dim).
        irreps_out: irreps of the result.
    """

    def __init__(self, irreps_in: o3.Irreps, irreps_out: o3.Irreps) -> None:
        super().__init__()
        self.irreps_in, self.irreps_out = irreps_in, irreps_out
        self.sources = [
            [i for i, (_, kind) in enumerate(irreps_in) if kind == made] for _, made in irreps_out
        ]
        for o, (copies, _) in enumerate(irreps_out):
            fan_in = sum(irreps_in[i].mul for i in self.sources[o])
            for i in self.sources[o]:
                weight = torch.randn(copies, irreps_in[i].mul) / math.sqrt(fan_in)
                self.register_parameter(f"weight_{i}_{o}", nn.Parameter(weight))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n_atoms, dim of irreps_in) to (n_atoms, dim of irreps_out)."""
        made = []
        for o, (copies, irrep) in enumerate(self.irreps_out):
            whole = features.new_zeros((features.shape[0], irrep.dim, copies))
            for i in self.sources[o]:
                part = features[:, self.irreps_in.slices()[i]].view(
                    -1, self.irreps_in[i].mul, irrep.dim
                )
                rows = part.transpose(1, 2).flatten(0, 1) @ getattr(self, f"weight_{i}_{o}").T
                whole = whole + rows.view(whole.shape)
            made.append(whole.transpose(1, 2).flatten(1))
        return torch.cat(made, dim=1)


class Gate(nn.Module):
    """Gated nonlinearity: SiLU of 0e, tanh of 0o, other irreps times the sigmoid of a gate (0e).

    Args:
        irreps: irreps of the result. The input, `irreps_in`, starts with the gates.

    Source: Weiler et al., 3D steerable CNNs (2018).
    """

    def __init__(self, irreps: o3.Irreps) -> None:
        super().__init__()
        self.irreps_out = irreps
        self.n_gates = sum(copies for copies, irrep in irreps if irrep.l > 0)
        self.irreps_in = o3.Irreps([(self.n_gates, (0, 1))] if self.n_gates else []) + irreps

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n_atoms, dim of irreps_in) to (n_atoms, dim of irreps_out)."""
        gates, rest = (
            torch.sigmoid(features[:, : self.n_gates]) * SIGMOID_SIZE,
            features[:, self.n_gates :],
        )
        made, used = [], 0
        for (copies, irrep), place in zip(self.irreps_out, self.irreps_out.slices(), strict=True):
            part = rest[:, place]
            if irrep.l > 0:
                gated = part.view(-1, copies, irrep.dim) * gates[:, used : used + copies, None]
                made.append(gated.flatten(1))
                used += copies
            else:
                made.append(
                    swish(part) * SWISH_SIZE if irrep.p == 1 else torch.tanh(part) * TANH_SIZE
                )
        return torch.cat(made, dim=1)
