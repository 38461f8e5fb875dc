"""What every canonicalizer takes and gives, and the frame policies seen as canonicalizers."""

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
    """A batch as a canonicalizer sees it.

    Attributes:
        positions: (n_atoms, 3) Angstrom; takes the place of `systems.positions`, differentiable.
        cell: (n_systems, 3, 3) Angstrom; takes the place of `systems.cell`, differentiable.
        systems: the batch.
        graph: its edges.
        edge_vec: (n_edges, 3) Angstrom; differentiable.
        edge_weight: (n_edges,) how much each edge counts, differentiable; None where all count as
            one.
    """

    positions: Tensor
    cell: Tensor
    systems: Systems
    graph: Graph
    edge_vec: Tensor
    edge_weight: Tensor | None = None


class Canonicalizer(nn.Module, ABC):
    """A module from a batch of structures to their frames: batched, differentiable, and the same in
    training and evaluation.
    """

    @abstractmethod
    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """Frames in the floating type of the positions; `draws` is randomness, which stochastic
        policies alone need.
        """


class PolicyFrames(Canonicalizer):
    """A frame policy as a canonicalizer without weights."""

    def __init__(self, policy: FramePolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, geometry: Geometry, draws: torch.Generator | Tensor | None = None) -> Frames:
        """See `geocalc.frames.make_frames`."""
        g = geometry
        return make_frames(
            g.positions, g.cell, g.systems, g.graph, g.edge_vec, self.policy, draws, g.edge_weight
        )
