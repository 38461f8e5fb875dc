"""Convolution of features with edge filters, with radial weights for every path.

Written with a tensor product on every edge,

    message_ij = TP(h_j, e_ij; w(r_ij)),   w(r) = W phi(r),   e_ij = M Y(r_ij),

this costs, per edge, all couplings of all channels. But W, M and the coupling coefficients C are
the same for all edges, so they can be applied after the sum over neighbors, or only W after it:

    message_i = W C M sum_j phi(r_ij) x Y(r_ij) x h_j = W sum_j phi(r_ij) x (C M Y(r_ij)) h_j.

The sum with fewer components is used. Where the features depend only on the kind of atom, as in the
first layer, the sum is one over neighbors of each kind, without channels:

    message_i = sum_k (W h_k) C M sum_(j of kind k) phi(r_ij) x Y(r_ij).

All give the same result up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geocalc.errors import InputError
from geocalc.nn.edges import EdgeIndex
from geocalc.nn.irreps import o3


@dataclass(frozen=True)
class Kinds:
    """Kinds of atoms; all atoms of a kind have the same features.

    Attributes:
        features: (n_kinds, width), 0e only.
        of_atoms: (n_atoms,) int64, the kind of each atom.
    """

    features: Tensor
    of_atoms: Tensor


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
        self,
        features: Tensor | Kinds,
        radial: Tensor,
        harmonics: Tensor,
        matrix: Tensor,
        index: EdgeIndex,
    ) -> Tensor:
        """Sum messages over neighbors, (n_atoms, dim of irreps_out).

        Args:
            features: (n_atoms, dim of irreps_in), or those of kinds of atoms.
            radial: (n_edges, n_radial), multiplied by the envelope.
            harmonics: (n_edges, dim of Y).
            matrix: (dim of Y, dim of e), see `RelaxedFilters`.
            index: senders and receivers of the edges.
        """
        if isinstance(features, Kinds):
            return self._from_kinds(features, radial, harmonics, matrix, index)
        parts = features.split([block.copies * block.width for block in self.blocks], dim=1)
        messages: list[list[Tensor]] = [[] for _ in self.irreps_out]
        for block, part in zip(self.blocks, parts, strict=True):
            if not block.into:
                continue
            sent = part.view(-1, block.copies, block.width).transpose(1, 2)
            coupling = (matrix @ getattr(self, block.coupling).to(matrix.dtype)).view(
                harmonics.shape[1], block.width, -1
            )
            sums = (
                _coupled_before if coupling.shape[2] < coupling[:, :, 0].numel() else _coupled_after
            )(sent, radial, harmonics, coupling, index)
            for into, made in zip(
                block.into, sums.split([i.columns for i in block.into], dim=1), strict=True
            ):
                weight = getattr(self, into.weight).view(
                    radial.shape[1] * block.copies, into.n_paths, -1
                )
                messages[into.output].append(_mix(made, weight))
        return self._join(messages)

    def _from_kinds(
        self, kinds: Kinds, radial: Tensor, harmonics: Tensor, matrix: Tensor, index: EdgeIndex
    ) -> Tensor:
        """Sum messages where features are those of kinds of atoms."""
        n_kinds, n_radial = kinds.features.shape[0], radial.shape[1]
        rows = index.receivers * n_kinds + kinds.of_atoms[index.senders]
        summed = radial.new_zeros((index.n_atoms * n_kinds, harmonics.shape[1] * n_radial))
        summed = summed.index_add(0, rows, _outer(harmonics, radial))
        summed = (
            summed.view(index.n_atoms, n_kinds, harmonics.shape[1], n_radial)
            .transpose(1, 2)
            .flatten(2)
        )
        messages: list[list[Tensor]] = [[] for _ in self.irreps_out]
        parts = kinds.features.split([block.copies for block in self.blocks], dim=1)
        for block, part in zip(self.blocks, parts, strict=True):
            if not block.into:
                continue
            coupling = matrix @ getattr(self, block.coupling).to(matrix.dtype)
            sums = coupling.T @ summed
            for into, made in zip(
                block.into, sums.split([i.columns for i in block.into], dim=1), strict=True
            ):
                weight = getattr(self, into.weight).view(n_radial, block.copies, -1)
                of_kinds = torch.einsum("kc,rcx->krx", part, weight)
                messages[into.output].append(
                    _mix(made, of_kinds.reshape(n_kinds * n_radial, into.n_paths, -1))
                )
        return self._join(messages)

    def _join(self, messages: list[list[Tensor]]) -> Tensor:
        """Sum the messages (n_atoms, components, copies) into each irrep, and join the irreps."""
        return torch.cat(
            [torch.stack(some).sum(0).transpose(1, 2).flatten(1) for some in messages], dim=1
        )


def _coupled_after(
    sent: Tensor, radial: Tensor, harmonics: Tensor, coupling: Tensor, index: EdgeIndex
) -> Tensor:
    """Sum phi x Y x h over neighbors, and couple the sums.

    Args:
        sent: (n_atoms, components, copies), features of the senders.
        radial: (n_edges, n_radial).
        harmonics: (n_edges, dim of Y).
        coupling: (dim of Y, components, columns).
        index: senders and receivers of the edges.
    Returns:
        (n_atoms, columns, n_radial * copies).
    """
    n_atoms, width, copies = sent.shape
    filters = by_receiver(_outer(harmonics, radial), index).transpose(1, 2)
    summed = filters @ by_receiver(sent.flatten(1).index_select(0, index.senders), index)
    rows = summed.view(n_atoms, harmonics.shape[1], radial.shape[1], width, copies)
    rows = rows.transpose(2, 3).reshape(n_atoms, harmonics.shape[1] * width, -1)
    return coupling.flatten(0, 1).T @ rows


def _coupled_before(
    sent: Tensor, radial: Tensor, harmonics: Tensor, coupling: Tensor, index: EdgeIndex
) -> Tensor:
    """Couple Y and h on every edge, and sum the products with phi; like `_coupled_after`."""
    n_atoms, width, copies = sent.shape
    columns = coupling.shape[2]
    on_edges = (harmonics @ coupling.flatten(1)).view(-1, width, columns)
    of_senders = sent.flatten(1).index_select(0, index.senders).view(-1, width, copies)
    if columns == 1:
        coupled = (on_edges * of_senders).sum(1)
    else:
        coupled = (on_edges.transpose(1, 2) @ of_senders).flatten(1)
    summed = by_receiver(radial, index).transpose(1, 2) @ by_receiver(coupled, index)
    rows = summed.view(n_atoms, radial.shape[1], columns, copies).transpose(1, 2)
    return rows.reshape(n_atoms, columns, -1)


def _mix(sums: Tensor, weight: Tensor) -> Tensor:
    """Apply the weights of the paths into one irrep.

    Args:
        sums: (n_atoms, n_paths * components, n).
        weight: (n, n_paths, copies).
    Returns:
        (n_atoms, components, copies).
    """
    n, n_paths, copies = weight.shape
    rows = sums.view(sums.shape[0], n_paths, -1, n).transpose(1, 2).reshape(-1, n_paths * n)
    # one product for all atoms; a product for each is ten times as slow without gradients of the
    # weights
    mixed = rows @ weight.transpose(0, 1).reshape(n_paths * n, copies)
    return mixed.view(sums.shape[0], -1, copies)


def _outer(harmonics: Tensor, radial: Tensor) -> Tensor:
    """Multiply all harmonics with all radial features, (n_edges, dim of Y * n_radial)."""
    return (harmonics[:, :, None] * radial[:, None, :]).flatten(1)


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
