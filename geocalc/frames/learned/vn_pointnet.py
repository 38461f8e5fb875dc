"""Canonicalizer of a PointNet with vector neurons.

Source: Deng et al., Vector neurons (2021), sec. 4; as a canonicalizer, Kaba et al., Equivariance
with learned canonicalization functions (2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geocalc.frames.learned.base import Canonicalizer, Geometry
from geocalc.frames.learned.environment import LocalEnvironment, local_environment
from geocalc.frames.learned.orient import FrameVectors, frames_from_vectors
from geocalc.frames.learned.settings import VectorNeuronSettings
from geocalc.frames.policy import Frames
from geocalc.nn.vector_neurons import VectorLayer, VectorNorm

# output vectors of each atom; frames use three, the fourth contributes to the norm, as published
N_VECTORS = 4


class PointNet(nn.Module):
    """Layer on edges, mean over the neighbors of each atom, and two layers on atoms.

    1,310 parameters at width 64.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = width // 3
        self.edges = VectorLayer(3, channels)
        self.atoms = VectorLayer(channels, channels)
        self.norm = VectorNorm(channels)
        self.last = VectorLayer(channels, N_VECTORS)

    def forward(self, edges: Tensor, environment: LocalEnvironment) -> Tensor:
        """Return vectors of every atom, (n_atoms, 3, 4).

        Args:
            edges: (n_edges, 3, 3) three vectors of every edge, in columns.
            environment: local environments.
        """
        neighbors = environment.mean_over_neighbors(self.edges(edges))
        return self.last(self.norm(self.atoms(neighbors)))


class VNPointNet(Canonicalizer):
    """Canonicalizer whose frame is spanned by the mean vectors of the atoms.

    The inputs for each edge are its vector, the vector of its center, and a third vector. As
    published, the third is the cross product of the two, which is a pseudovector; without `proper`
    it is the vector of the neighbor, so that all three are true vectors. The published network uses
    the positions of nearest neighbors relative to the centroid, dropout and batch normalization.

    Args:
        settings: settings of the canonicalizer.
        cutoff: Angstrom, cutoff of the network.
    """

    def __init__(self, settings: VectorNeuronSettings, cutoff: float) -> None:
        super().__init__()
        self.settings, self.reach = settings, min(settings.reach, cutoff)
        self.layers = PointNet(settings.width)

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """Return the frames; `draws` is not used."""
        environment = local_environment(geometry, self.reach)
        edges = edge_features(environment, self.settings.proper)
        vectors = self.layers(edges, environment)[:, :, :3]
        return frames_from_vectors(
            FrameVectors.mean_of(vectors, environment),
            geometry,
            self.settings.dimensions,
            self.settings.proper,
        )


def edge_features(environment: LocalEnvironment, cross: bool) -> Tensor:
    """Return three vectors of each edge, (n_edges, 3, 3) in columns.

    The vector of the edge, that of its center, and their cross product or the vector of its
    neighbor.
    """
    edge_vec, center = environment.edge_vec, environment.vectors[environment.receivers]
    neighbor = environment.vectors[environment.senders]
    third = torch.linalg.cross(edge_vec, center) if cross else neighbor
    return torch.stack([edge_vec, center, third], dim=2)
