"""A smooth energy of a pose that no symmetry of space leaves alone: what frames have to make
invariant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geocalc.core.systems import Systems
from geocalc.frames import Frames, frame_policy, make_frames
from geocalc.graphs.neighbors import Graph, build_graph, edge_vectors

CUTOFF = 4.5
_DIRECTIONS = torch.randn(
    119, 119, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64
)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator with a seed."""
    return torch.Generator().manual_seed(seed)


def frames_of(systems: Systems, policy: str, seed: int = 0, graph: Graph | None = None) -> Frames:
    """Frames of a batch under the policy of that name."""
    graph = build_graph(systems, CUTOFF) if graph is None else graph
    edge_vec = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    return make_frames(
        systems.positions,
        systems.cell,
        systems,
        graph,
        edge_vec,
        frame_policy(policy),
        seeded(seed),
    )


def pose_energies(systems: Systems, frames: Frames, graph: Graph) -> Tensor:
    """Energy of every frame, (n_frames,); differentiable, without a step where an edge crosses the
    cutoff.
    """
    edge_vec = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    edge_system = systems.system_idx[graph.receivers]
    pairs = systems.numbers[graph.receivers], systems.numbers[graph.senders]
    energies = []
    for rotation, owner in zip(frames.rotations, frames.system_idx, strict=True):
        own = edge_system == owner
        pose = edge_vec[own] @ rotation
        direction = _DIRECTIONS[pairs[0][own], pairs[1][own]]
        fade = (1 - (pose * pose).sum(1) / CUTOFF**2).clamp(min=0) ** 3
        energies.append((torch.sin((direction * pose).sum(1) + 0.7) * fade).sum())
    return torch.stack(energies) if energies else systems.positions.new_zeros(0)


def energies_of(systems: Systems, policy: str, seed: int = 0) -> Tensor:
    """Sorted energies of the poses of one structure: equal exactly when the sets of poses are, up
    to a permutation of atoms.
    """
    graph = build_graph(systems, CUTOFF)
    return pose_energies(systems, frames_of(systems, policy, seed, graph), graph).sort().values


def mean_energies(
    systems: Systems, policy: str, seed: int = 0, graph: Graph | None = None
) -> Tensor:
    """Energy of each structure averaged over its frames, (n_systems,); differentiable for a given
    graph.
    """
    graph = build_graph(systems, CUTOFF) if graph is None else graph
    frames = frames_of(systems, policy, seed, graph)
    energies = pose_energies(systems, frames, graph)
    count = torch.bincount(frames.system_idx, minlength=systems.n_systems)
    return energies.new_zeros(systems.n_systems).index_add(0, frames.system_idx, energies) / count
