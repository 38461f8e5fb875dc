"""Filters of edges: harmonics of their direction, coupled with relaxed weights."""

from __future__ import annotations

from e3nn import o3
from torch import Tensor, nn

from geocalc.errors import InputError
from geocalc.nn.theta import Theta


def all_irreps(highest: int, copies: int = 1) -> o3.Irreps:
    """Every irrep of degree 0 to `highest`, even and odd; of degree 0 alone the even one, which breaks nothing."""
    if highest == 0:
        return o3.Irreps([(copies, (0, 1))])
    return o3.Irreps([(copies, (degree, parity)) for degree in range(highest + 1) for parity in (1, -1)])


def default_filters(harmonics: o3.Irreps, theta: o3.Irreps) -> o3.Irreps:
    """One of each irrep of the harmonics and of theta."""
    return o3.Irreps([(1, irrep) for irrep in sorted({irrep for _, irrep in (*harmonics, *theta)})])


class RelaxedFilters(nn.Module):
    """e_ij = TP(theta, Y(r_ij)), a fully connected tensor product with weights of its own; Y are harmonics, theta relaxed weights.

    Since theta is the same for all edges, this is one matrix per layer. A filter has unit variance where theta is as it begins.

    Args:
        harmonics: irreps of Y. theta: irreps of theta. filters: irreps of e, by default one of each of the two.
    Raises:
        InputError: no filter can be made of any harmonic.

    Source: Hofgard et al., arXiv 2407.20471 (2024).
    """

    def __init__(self, harmonics: o3.Irreps, theta: o3.Irreps, filters: o3.Irreps | None = None) -> None:
        super().__init__()
        self.theta = Theta(theta)
        self.irreps_out = default_filters(harmonics, theta) if filters is None else filters
        scalars = max(1, sum(copies for copies, irrep in theta if irrep.l == 0 and irrep.p == 1))
        paths = [
            (i, j, k, "uvw", True, 1.0 / (scalars * copies))
            for i, (copies, degree) in enumerate(harmonics)
            for j, (_, relaxed) in enumerate(theta)
            for k, (_, made) in enumerate(self.irreps_out)
            if made in degree * relaxed
        ]
        if not paths:
            raise InputError(f"no filter {self.irreps_out} can be made of harmonics {harmonics} and relaxed weights {theta}")
        self.product = o3.TensorProduct(
            harmonics,
            theta,
            self.irreps_out,
            paths,
            path_normalization="none",
            compile_left_right=False,
            compile_right=True,
        )

    def forward(self) -> Tensor:
        """The matrix (dim of Y, dim of e) that makes filters of harmonics, e = Y @ matrix."""
        return self.product.right(self.theta.values[None]).squeeze(0)
