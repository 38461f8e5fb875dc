"""Interface of all canonicalizers, and frame policies as canonicalizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geocalc.core.systems import Systems
from geocalc.frames.dispatch import make_frames
from geocalc.frames.policy import FramePolicy, Frames
from geocalc.graphs.neighbors import Graph


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Input of a canonicalizer: a batch with its edges.

    Attributes:
        positions: (n_atoms, 3) Angstrom; used instead of `systems.positions`, differentiable.
        cell: (n_systems, 3, 3) Angstrom; used instead of `systems.cell`, differentiable.
        systems: the batch.
        graph: its edges.
        edge_vec: (n_edges, 3) Angstrom, vectors of the edges; differentiable.
        edge_weight: (n_edges,) weight of each edge, differentiable; None for weights of one.
    """

    positions: Tensor
    cell: Tensor
    systems: Systems
    graph: Graph
    edge_vec: Tensor
    edge_weight: Tensor | None = None


class Canonicalizer(nn.Module, ABC):
    """Module from a batch of structures to their frames.

    Batched, differentiable, and identical in training and evaluation.
    """

    @abstractmethod
    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """Return frames in the floating type of the positions.

        Args:
            geometry: the batch.
            draws: source of randomness, used by stochastic policies only.
        """


class PolicyFrames(Canonicalizer):
    """Frame policy as a canonicalizer without weights."""

    def __init__(self, policy: FramePolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """Return the frames of the policy; see `geocalc.frames.make_frames`."""
        g = geometry
        return make_frames(
            g.positions, g.cell, g.systems, g.graph, g.edge_vec, self.policy, draws, g.edge_weight
        )
