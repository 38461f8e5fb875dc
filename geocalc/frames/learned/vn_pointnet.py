"""PointNet made of vector neurons.

Source: Deng et al., Vector neurons (2021), sec. 4; as a canonicalizer, Kaba et al., Equivariance
with learned canonicalization functions (2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geocalc.frames.learned.base import Canonicalizer, Geometry
from geocalc.frames.learned.orient import FrameVectors, oriented
from geocalc.frames.learned.settings import VectorNeuronSettings
from geocalc.frames.learned.surroundings import Surroundings, surroundings_of
from geocalc.frames.policy import Frames
from geocalc.nn.vector_neurons import VectorLayer, VectorNorm

N_VECTORS = 4  # of each atom; frames need three, the fourth has a part in the norm, as published


class PointNet(nn.Module):
    """A layer on edges, their mean around each atom, two layers on atoms; 1,310 parameters at width
    64.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = width // 3
        self.edges = VectorLayer(3, channels)
        self.atoms = VectorLayer(channels, channels)
        self.norm = VectorNorm(channels)
        self.last = VectorLayer(channels, N_VECTORS)

    def forward(self, edges: Tensor, near: Surroundings) -> Tensor:
        """Vectors of every atom, (n_atoms, 3, 4), from three of every edge, (n_edges, 3, 3) in
        columns.
        """
        return self.last(self.norm(self.atoms(near.around(self.edges(edges)))))


class VNPointNet(Canonicalizer):
    """Mean vectors of atoms as a frame; of each edge it sees the edge, the vector of its center,
    and a third.

    The third is the cross product of the two, as published, which mirror images turn around;
    without `proper` it is the vector of the neighbor, so that all three are true vectors.
    Published with the positions of nearest neighbors from the centroid, dropout and batch
    normalization.

    Args:
        settings: its shape.
        cutoff: Angstrom, of the network.
    """

    def __init__(self, settings: VectorNeuronSettings, cutoff: float) -> None:
        super().__init__()
        self.settings, self.reach = settings, min(settings.reach, cutoff)
        self.layers = PointNet(settings.width)

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """See `Canonicalizer`; nothing is drawn."""
        near = surroundings_of(geometry, self.reach)
        vectors = self.layers(edge_channels(near, self.settings.proper), near)[:, :, :3]
        return oriented(
            FrameVectors.mean_of(vectors, near),
            geometry,
            self.settings.dimensions,
            self.settings.proper,
        )


def edge_channels(near: Surroundings, cross: bool) -> Tensor:
    """Three vectors of each edge, (n_edges, 3, 3) in columns: itself, its center's, and their cross
    product or its neighbor's.
    """
    center = near.vectors[near.receivers]
    third = torch.linalg.cross(near.edge_vec, center) if cross else near.vectors[near.senders]
    return torch.stack([near.edge_vec, center, third], dim=2)
