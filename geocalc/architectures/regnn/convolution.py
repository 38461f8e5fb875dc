"""Convolution of features with edge filters, with radial weights for every path.

Written with a tensor product on every edge,

    message_ij = TP(h_j, e_ij; w(r_ij)),   w(r) = W phi(r),   e_ij = M Y(r_ij),

this costs, per edge, all couplings of all channels. But W, M and the coupling coefficients are the
same for all edges, so they can be applied after the sum over neighbors:

    A_i = sum_j phi(r_ij) x Y(r_ij) x h_j,   message_i = W (C M A_i),

where A_i is one matrix product per atom. Both give the same result up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn

from geocalc.errors import InputError
from geocalc.nn.edges import EdgeIndex


@dataclass(frozen=True)
class _Into:
    """Paths from one block of features into one block of messages.

    Attributes:
        columns: number of their columns in the coupling matrix.
        n_paths: number of paths.
        output: index of the block of messages.
        weight: name of the parameter.
    """

    columns: int
    n_paths: int
    output: int
    weight: str


@dataclass(frozen=True)
class _Block:
    """A block of features and the paths that start from it.

    Attributes:
        copies: number of irreps.
        width: number of components of each.
        coupling: name of the buffer with coupling coefficients.
        into: paths; empty where the block is not used.
    """

    copies: int
    width: int
    coupling: str
    into: tuple[_Into, ...]


class Convolution(nn.Module):
    """Sum of tensor products sum_j TP(h_j, e_ij; w(r_ij)), with w linear in radial features.

    See the docstring of the module.

    Args:
        irreps_in: irreps of the features h.
        irreps_filter: irreps of the filters e.
        irreps_out: irreps of the messages.
        n_radial: number of radial features phi.
    Raises:
        InputError: no path leads to one of the irreps of messages.
    """

    def __init__(
        self, irreps_in: o3.Irreps, irreps_filter: o3.Irreps, irreps_out: o3.Irreps, n_radial: int
    ) -> None:
        super().__init__()
        self.irreps_in, self.irreps_out = irreps_in, irreps_out
        unreached = [
            str(made)
            for _, made in irreps_out
            if not any(made in kind * sent for _, kind in irreps_in for _, sent in irreps_filter)
        ]
        if unreached:
            raise InputError(
                f"no message {unreached[0]} can be made of features {irreps_in} and filters"
                f" {irreps_filter}; give more irreps"
            )
        blocks = []
        for i, (copies, irrep) in enumerate(irreps_in):
            into, couplings = [], []
            for o, (made_copies, made) in enumerate(irreps_out):
                found = _couplings(irrep, irreps_filter, made)
                if not found:
                    continue
                fan_in = sum(
                    c * len(_couplings(kind, irreps_filter, made)) for c, kind in irreps_in
                )
                couplings += [one * math.sqrt(made.dim / (fan_in * n_radial)) for one in found]
                name = f"weight_{i}_{o}"
                self.register_parameter(
                    name, nn.Parameter(torch.randn(n_radial * copies * len(found), made_copies))
                )
                into.append(_Into(len(found) * made.dim, len(found), o, name))
            if into:
                self.register_buffer(
                    f"coupling_{i}", torch.cat(couplings, dim=2).flatten(1), persistent=False
                )
            blocks.append(_Block(copies, irrep.dim, f"coupling_{i}", tuple(into)))
        self.blocks = tuple(blocks)

    def forward(
        self, features: Tensor, radial: Tensor, harmonics: Tensor, matrix: Tensor, index: EdgeIndex
    ) -> Tensor:
        """Sum messages over neighbors, (n_atoms, dim of irreps_out).

        Args:
            features: (n_atoms, dim of irreps_in).
            radial: (n_edges, n_radial), multiplied by the envelope.
            harmonics: (n_edges, dim of Y).
            matrix: (dim of Y, dim of e), see `RelaxedFilters`.
            index: senders and receivers of the edges.
        """
        n_atoms, n_radial, n_harmonics = index.n_atoms, radial.shape[1], harmonics.shape[1]
        filters = by_receiver(
            (radial[:, :, None] * harmonics[:, None, :]).flatten(1), index
        ).transpose(1, 2)
        sent = by_receiver(features.index_select(0, index.senders), index)
        messages: list[list[Tensor]] = [[] for _ in self.irreps_out]
        for block, part in zip(
            self.blocks, sent.split([b.copies * b.width for b in self.blocks], dim=2), strict=True
        ):
            if not block.into:
                continue
            summed = (filters @ part).view(
                n_atoms, n_radial, n_harmonics, block.copies, block.width
            )
            rows = summed.transpose(2, 3).reshape(
                n_atoms * n_radial * block.copies, n_harmonics * block.width
            )
            coupling = matrix @ getattr(self, block.coupling).to(matrix.dtype)
            coupled = rows @ coupling.view(n_harmonics * block.width, -1)
            for into, columns in zip(
                block.into, coupled.split([i.columns for i in block.into], dim=1), strict=True
            ):
                made = columns.reshape(n_atoms, n_radial * block.copies * into.n_paths, -1)
                # one product for all atoms; a product for each is ten times as slow without
                # gradients of the weights
                message = made.transpose(1, 2).flatten(0, 1) @ getattr(self, into.weight)
                messages[into.output].append(message.view(n_atoms, made.shape[2], -1))
        return torch.cat(
            [torch.stack(some).sum(0).transpose(1, 2).flatten(1) for some in messages], dim=1
        )


def by_receiver(values: Tensor, index: EdgeIndex) -> Tensor:
    """Arrange rows of edges (n_edges, width) by receiver, padded with zeros.

    Returns:
        (n_atoms, largest number of edges of an atom, width).
    """
    n_edges = index.receivers.shape[0]
    place = torch.arange(n_edges, device=values.device) - index.receiver_offsets[index.receivers]
    most = int(place.max()) + 1 if n_edges else 0
    rows = values.new_zeros((index.n_atoms * most, values.shape[1])).index_copy(
        0, index.receivers * most + place, values
    )
    return rows.view(index.n_atoms, most, values.shape[1])


def _couplings(kind: o3.Irrep, irreps_filter: o3.Irreps, made: o3.Irrep) -> list[Tensor]:
    """Compute the coefficients of every path from one irrep to another, float64.

    Returns:
        (dim of e, components of h, components of a message) for each path.
    """
    found = []
    for (copies, sent), place in zip(irreps_filter, irreps_filter.slices(), strict=True):
        if made not in kind * sent:
            continue
        for copy in range(copies):
            whole = torch.zeros(irreps_filter.dim, kind.dim, made.dim, dtype=torch.float64)
            first = place.start + copy * sent.dim
            whole[first : first + sent.dim] = o3.wigner_3j(
                kind.l, sent.l, made.l, dtype=torch.float64
            ).transpose(0, 1)
            found.append(whole)
    return found
