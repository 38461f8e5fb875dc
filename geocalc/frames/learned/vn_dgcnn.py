"""Canonicalizer of dynamic graph convolutions with vector neurons.

Source: Deng et al., Vector neurons (2021), sec. 4; Wang et al., Dynamic graph CNN for learning on
point clouds (2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geocalc.frames.learned.base import Canonicalizer, Geometry
from geocalc.frames.learned.environment import local_environment
from geocalc.frames.learned.orient import FrameVectors, frames_from_vectors
from geocalc.frames.learned.settings import VectorNeuronSettings
from geocalc.frames.policy import Frames
from geocalc.nn.vector_neurons import VectorLayer, VectorLinear

LEAK = 0.2  # leak of the gates, as published


class VNDGCNN(Canonicalizer):
    """Canonicalizer of four edge convolutions, a fusion layer on all their outputs, and a head.

    663,804 parameters at width 64, as published. The published head converts its features to
    rotation invariant numbers, from which no frame can be obtained. Here the frame is the sum of
    two sets of three equivariant vectors: the basis in which the head expresses its features, and
    the last layer applied to the features themselves. All layers use the edges of the network; the
    published layers connect a fixed number of neighbors, which is discontinuous.

    Args:
        settings: settings of the canonicalizer.
        cutoff: Angstrom, cutoff of the network.
    """

    def __init__(self, settings: VectorNeuronSettings, cutoff: float) -> None:
        super().__init__()
        self.settings, self.reach = settings, min(settings.reach, cutoff)
        w = settings.width
        a, b, c, fused, narrow = w // 3, 2 * w // 3, 4 * w // 3, 16 * w // 3, 8 * w // 3
        shapes = ((2, a), (2 * a, a), (2 * a, b), (2 * b, c))
        self.convolutions = nn.ModuleList(VectorLayer(n_in, n_out, LEAK) for n_in, n_out in shapes)
        self.fusion = VectorLayer(a + a + b + c, fused, LEAK, shared=True)
        self.head = nn.Sequential(
            VectorLayer(2 * fused, fused, LEAK),
            VectorLayer(fused, narrow, LEAK),
            VectorLinear(narrow, 3),
        )
        self.last = VectorLayer(2 * fused, 3, LEAK, shared=True)

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """Return the frames; `draws` is not used."""
        env = local_environment(geometry, self.reach)
        edges = torch.stack([env.edge_vec, env.vectors[env.receivers]], dim=2)
        outputs: list[Tensor] = []
        for convolution in self.convolutions:
            if outputs:
                center = outputs[-1][env.receivers]
                edges = torch.cat([outputs[-1][env.senders] - center, center], dim=2)
            outputs.append(env.mean_over_neighbors(convolution(edges)))
        atoms = self.fusion(torch.cat(outputs, dim=2))
        atoms = torch.cat([atoms, env.mean_over_atoms(atoms)[env.system_idx]], dim=2)
        vectors = self.head(atoms) + self.last(atoms)
        return frames_from_vectors(
            FrameVectors.mean_of(vectors, env),
            geometry,
            self.settings.dimensions,
            self.settings.proper,
        )
