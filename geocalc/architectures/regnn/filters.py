"""Edge filters: spherical harmonics of the edge direction, coupled with relaxed weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geocalc.errors import InputError
from geocalc.nn.irreps import o3
from geocalc.nn.relaxed_weights import Theta


def all_irreps(highest: int, copies: int = 1) -> o3.Irreps:
    """List all irreps of degree 0 to `highest`, even and odd.

    For `highest` 0 only 0e, which breaks no symmetry.
    """
    if highest == 0:
        return o3.Irreps([(copies, (0, 1))])
    return o3.Irreps(
        [(copies, (degree, parity)) for degree in range(highest + 1) for parity in (1, -1)]
    )


def default_filters(harmonics: o3.Irreps, theta: o3.Irreps) -> o3.Irreps:
    """List one of each irrep that occurs in the harmonics or in theta."""
    return o3.Irreps([(1, irrep) for irrep in sorted({irrep for _, irrep in (*harmonics, *theta)})])


class RelaxedFilters(nn.Module):
    """Edge filters e_ij = TP(theta, Y(r_ij)), a fully connected tensor product with weights.

    Y are spherical harmonics and theta relaxed weights. Since theta is the same for all edges, the
    product is one matrix per layer. Its columns have unit variance for the initial theta.

    Args:
        harmonics: irreps of Y.
        theta: irreps of theta.
        filters: irreps of e; by default one of each irrep of Y and theta.
    Raises:
        InputError: a harmonic occurs twice, or no coupling leads to one of the filters.

    Source: Hofgard et al., arXiv 2407.20471 (2024).
    """

    def __init__(
        self, harmonics: o3.Irreps, theta: o3.Irreps, filters: o3.Irreps | None = None
    ) -> None:
        super().__init__()
        if any(copies != 1 for copies, _ in harmonics):
            raise InputError(f"harmonics must occur once each, got {harmonics}; remove the copies")
        self.theta = Theta(theta)
        self.irreps_in = harmonics
        self.irreps_out = default_filters(harmonics, theta) if filters is None else filters
        scalars = max(1, sum(copies for copies, irrep in theta if irrep.l == 0 and irrep.p == 1))
        reached: set[o3.Irrep] = set()
        for number, (copies, relaxed) in enumerate(theta):
            couplings: list[Tensor] = []
            columns: list[int] = []
            paths: list[int] = []
            n_paths = 0
            for (_, degree), there in zip(harmonics, harmonics.slices(), strict=True):
                for (made_copies, made), place in zip(
                    self.irreps_out, self.irreps_out.slices(), strict=True
                ):
                    if made not in degree * relaxed:
                        continue
                    reached.add(made)
                    for copy in range(made_copies):
                        couplings.append(
                            _coupling(relaxed, degree, made, there, harmonics.dim)
                            / math.sqrt(scalars)
                        )
                        columns += range(
                            place.start + copy * made.dim, place.start + (copy + 1) * made.dim
                        )
                        paths += [n_paths] * made.dim
                        n_paths += 1
            if not n_paths:
                raise InputError(
                    f"no filter of {self.irreps_out} can be made of harmonics {harmonics} and"
                    f" relaxed weights {relaxed}"
                )
            self.register_parameter(f"weight_{number}", nn.Parameter(torch.randn(copies, n_paths)))
            self.register_buffer(
                f"coupling_{number}", torch.cat(couplings, dim=2).flatten(1), persistent=False
            )
            self.register_buffer(f"column_{number}", torch.tensor(columns), persistent=False)
            self.register_buffer(f"path_{number}", torch.tensor(paths), persistent=False)
        missing = [str(made) for _, made in self.irreps_out if made not in reached]
        if missing:
            raise InputError(
                f"no filter {missing[0]} can be made of harmonics {harmonics} and relaxed weights"
                f" {theta}"
            )

    def forward(self) -> Tensor:
        """Compute the matrix (dim of Y, dim of e) from harmonics to filters, e = Y @ matrix."""
        values = self.theta.values
        matrix = values.new_zeros((self.irreps_in.dim, self.irreps_out.dim))
        for number, part in enumerate(self.theta.parts()):
            weight, path = getattr(self, f"weight_{number}"), getattr(self, f"path_{number}")
            coupled = part @ getattr(self, f"coupling_{number}").to(values.dtype)
            coupled = (
                coupled.view(part.shape[0], self.irreps_in.dim, -1)
                * weight.index_select(1, path)[:, None]
            )
            matrix = matrix.index_add(1, getattr(self, f"column_{number}"), coupled.sum(0))
        return matrix


def _coupling(
    relaxed: o3.Irrep, degree: o3.Irrep, made: o3.Irrep, place: slice, dim: int
) -> Tensor:
    """Compute coupling coefficients (components of theta, dim of Y, components of e), float64.

    They are zero except for the components of one harmonic.
    """
    whole = torch.zeros(relaxed.dim, dim, made.dim, dtype=torch.float64)
    coefficients = o3.wigner_3j(degree.l, relaxed.l, made.l, dtype=torch.float64)
    whole[:, place] = coefficients.transpose(0, 1) * math.sqrt(made.dim)
    return whole
