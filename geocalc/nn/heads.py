"""Energy and force heads of FAENet.

Source: Duval et al., FAENet (2023), and its published configurations.
"""

from __future__ import annotations

from enum import StrEnum

from torch import Tensor, nn

from geocalc.nn.activation import swish
from geocalc.nn.edges import EdgeFeatures, EdgeIndex


class ForceDecoder(StrEnum):
    """Type of the direct force head.

    The published types predict three numbers per atom; `edges` additionally predicts a number per
    edge.
    """

    SIMPLE = "simple"
    MLP = "mlp"
    RES = "res"
    RES_UPDOWN = "res_updown"
    EDGES = "edges"


class ForceNorm(StrEnum):
    """Normalization inside the direct force head."""

    BATCH = "batch1d"
    LAYER = "layer"
    NONE = "none"


class EnergyHead(nn.Module):
    """Energies of atoms: Linear(H -> H/2), swish, Linear(H/2 -> 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width // 2)
        self.last = nn.Linear(width // 2, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map features (n_atoms, width) to energies (n_atoms, 1)."""
        return self.last(swish(self.first(hidden)))


def _normalize(norm: ForceNorm, width: int) -> nn.Module:
    """Return the normalization layer."""
    if norm is ForceNorm.BATCH:
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if norm is ForceNorm.LAYER else nn.Identity()


class _Dense(nn.Module):
    """Linear layer, normalization and swish."""

    def __init__(self, inward: int, outward: int, norm: ForceNorm) -> None:
        super().__init__()
        self.linear = nn.Linear(inward, outward)
        self.norm = _normalize(norm, outward)

    def forward(self, values: Tensor) -> Tensor:
        return swish(self.norm(self.linear(values)))


class ForceHead(nn.Module):
    """Three numbers per atom, predicted from its features independently of the energy.

    Args:
        width: number of node features.
        hidden: width of the hidden layers.
        kind: simple (Linear, swish, Linear), mlp (with normalization), res (two layers with one
            residual around both, then mlp) or res_updown (down, mid and up with one residual around
            the three, then mlp).
        norm: normalization; batch statistics couple atoms in training only.
    """

    def __init__(self, width: int, hidden: int, kind: ForceDecoder, norm: ForceNorm) -> None:
        super().__init__()
        self.kind = kind
        if kind is ForceDecoder.RES:
            self.residual = nn.ModuleList(
                [nn.Sequential(_Dense(width, width, norm), _Dense(width, width, norm))]
            )
        elif kind is ForceDecoder.RES_UPDOWN:
            self.residual = nn.ModuleList(
                [
                    nn.Sequential(
                        _Dense(width, hidden, norm),
                        _Dense(hidden, hidden, norm),
                        _Dense(hidden, width, norm),
                    )
                ]
            )
        else:
            self.residual = nn.ModuleList()
        self.dense = _Dense(width, hidden, ForceNorm.NONE if kind is ForceDecoder.SIMPLE else norm)
        self.last = nn.Linear(hidden, 3)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map features (n_atoms, width) to vectors (n_atoms, 3)."""
        for layer in self.residual:
            hidden = hidden + layer(hidden)
        return self.last(self.dense(hidden))


class EdgeForceHead(nn.Module):
    """Direct force head with edge directions.

    The force on an atom is the output of a `ForceHead` plus the sum over its edges of learned
    numbers times edge directions.

    If a network is trained on structures in any orientation, three numbers per atom must learn how
    they change under rotation, and for in-plane components of a surface they learn zero. The
    directions of edges rotate with the structure.

    Args:
        width: number of node features.
        filters: number of edge features.
        hidden: width of the hidden layers.
        norm: as for `ForceHead`.
    """

    def __init__(self, width: int, filters: int, hidden: int, norm: ForceNorm) -> None:
        super().__init__()
        self.atom = ForceHead(width, hidden, ForceDecoder.MLP, norm)
        self.edge = nn.Linear(filters, hidden)
        self.center = nn.Linear(width, hidden, bias=False)
        self.neighbor = nn.Linear(width, hidden, bias=False)
        self.last = nn.Linear(hidden, 1, bias=False)

    def forward(
        self,
        hidden: Tensor,
        edge: EdgeFeatures,
        weight: Tensor,
        direction: Tensor,
        index: EdgeIndex,
    ) -> Tensor:
        """Return vectors (n_atoms, 3).

        Args:
            hidden: (n_atoms, width) node features.
            edge: features of the edges.
            weight: (n_edges, 1), zero at the cutoff.
            direction: (n_edges, 3) unit vectors of the edges.
            index: the edges.
        """
        pair = self.center(hidden)[index.receivers] + self.neighbor(hidden)[index.senders]
        size = self.last(swish(self.edge(edge.joined(index)) + pair))
        return self.atom(hidden) + index.to_receivers(size * weight * direction)
