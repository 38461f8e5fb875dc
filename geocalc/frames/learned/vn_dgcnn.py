"""Dynamic graph convolutions made of vector neurons.

Source: Deng et al., Vector neurons (2021), sec. 4; Wang et al., Dynamic graph CNN for learning on
point clouds (2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geocalc.frames.learned.base import Canonicalizer, Geometry
from geocalc.frames.learned.orient import FrameVectors, oriented
from geocalc.frames.learned.settings import VectorNeuronSettings
from geocalc.frames.learned.surroundings import surroundings_of
from geocalc.frames.policy import Frames
from geocalc.nn.vector_neurons import VectorLayer, VectorLinear

LEAK = 0.2  # as published


class VNDGCNN(Canonicalizer):
    """Four convolutions over edges, a layer on what they give together, and a head that compares
    atoms with their structure.

    663,804 parameters at width 64, as published. The published head turns its features into numbers
    that no rotation changes, so what is read after it is no frame. Here the frame is the sum of two
    sets of three vectors that do turn: those in which the head expresses its features, and the last
    layer applied to the features themselves. Edges are the network's in every layer, where the
    published ones connect a number of neighbors, which change in jumps.

    Args:
        settings: its shape.
        cutoff: Angstrom, of the network.
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
        """See `Canonicalizer`; nothing is drawn."""
        near = surroundings_of(geometry, self.reach)
        edges = torch.stack([near.edge_vec, near.vectors[near.receivers]], dim=2)
        found: list[Tensor] = []
        for convolution in self.convolutions:
            if found:
                center = found[-1][near.receivers]
                edges = torch.cat([found[-1][near.senders] - center, center], dim=2)
            found.append(near.around(convolution(edges)))
        atoms = self.fusion(torch.cat(found, dim=2))
        atoms = torch.cat([atoms, near.mean(atoms)[near.system_idx]], dim=2)
        vectors = self.head(atoms) + self.last(atoms)
        return oriented(
            FrameVectors.mean_of(vectors, near),
            geometry,
            self.settings.dimensions,
            self.settings.proper,
        )
