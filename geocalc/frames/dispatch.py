"""Construction of the frames of a batch for any frame policy."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geocalc.core.systems import Systems
from geocalc.errors import InputError
from geocalc.frames.lattice import lattice_frames
from geocalc.frames.pca import edge_points, pca_frames, position_points
from geocalc.frames.policy import FramePick, FramePolicy, Frames, FrameSource
from geocalc.frames.sampling import rotations_from_draws, uniform_draws
from geocalc.graphs.neighbors import Graph


def make_frames(
    positions: Tensor,
    cell: Tensor,
    systems: Systems,
    graph: Graph,
    edge_vec: Tensor,
    policy: FramePolicy,
    generator: torch.Generator | Tensor | None = None,
    edge_weight: Tensor | None = None,
) -> Frames:
    """Return the frames of every structure of a batch.

    Args:
        positions: (n_atoms, 3) Angstrom; used instead of `systems.positions`, differentiable.
        cell: (n_systems, 3, 3) Angstrom; used instead of `systems.cell`, differentiable.
        systems: the batch.
        graph: its edges.
        edge_vec: (n_edges, 3) Angstrom, vectors of the edges; differentiable.
        policy: frame policy; see `frame_policy`.
        generator: source of randomness for stochastic policies, or (n_systems, N_DRAWS) uniform
            random numbers between 0 and 1.
        edge_weight: (n_edges,) weight of each edge, differentiable; None for weights of one.
    Returns:
        Frames, in the floating type and on the device of `positions`; differentiable.
    Raises:
        InputError: a stochastic policy has no generator, the in-plane lattice vectors of a slab are
            parallel, or the policy is `learned`.
    """
    if policy.source is FrameSource.LEARNED:
        raise InputError(
            "got the frame policy `learned`, whose frames only the canonicalizer of a network can"
            " compute; call the canonicalizer, or choose another frame policy"
        )
    n = systems.n_systems
    draws = uniform_draws(generator, n) if policy.pick is FramePick.STOCHASTIC else None
    if policy.source is FrameSource.LATTICE:
        return _lattice_or_pca(
            positions, cell, systems, graph, edge_vec, policy, draws, edge_weight
        )
    if policy.source in (FrameSource.NONE, FrameSource.ROTATIONS):
        if policy.source is FrameSource.NONE:
            rotations = torch.eye(3).expand(n, 3, 3)
        else:
            rotations = rotations_from_draws(draws, policy.dimensions, policy.proper)
        return Frames(
            rotations=rotations.to(positions),
            system_idx=torch.arange(n, device=positions.device),
            degenerate=torch.zeros(n, dtype=torch.bool, device=positions.device),
        )
    return _pca(positions, systems, graph, edge_vec, policy, list(range(n)), draws, edge_weight)


def _lattice_or_pca(
    positions: Tensor,
    cell: Tensor,
    systems: Systems,
    graph: Graph,
    edge_vec: Tensor,
    policy: FramePolicy,
    draws: Tensor | None,
    edge_weight: Tensor | None,
) -> Frames:
    """Return lattice frames for slabs and crystals, and PCA frames for the other structures.

    PCA uses edges for structures periodic along one vector and positions for molecules.
    """
    n_periodic = systems.pbc.sum(1).tolist()
    slabs = [k for k, n in enumerate(n_periodic) if n >= 2]
    if len(slabs) == systems.n_systems:
        return lattice_frames(cell, systems.pbc, policy.pick, draws)
    parts = []
    if slabs:
        rows = torch.tensor(slabs, device=cell.device)
        part = lattice_frames(
            cell[rows], systems.pbc[rows], policy.pick, None if draws is None else draws[slabs]
        )
        none = torch.zeros(systems.n_systems, dtype=torch.bool, device=cell.device)
        parts.append(replace(part, system_idx=rows[part.system_idx], degenerate=none))
    for source, periodic in ((FrameSource.EDGES, 1), (FrameSource.POSITIONS, 0)):
        chosen = [k for k, n in enumerate(n_periodic) if n == periodic]
        if chosen:
            # a single frame of a symmetric molecule is discontinuous where the symmetry breaks, so
            # only `stochastic` selects one frame
            pick = FramePick.ALL if policy.pick is FramePick.ONE else policy.pick
            pca_policy = replace(policy, source=source, pick=pick, dimensions=3, proper=False)
            parts.append(
                _pca(positions, systems, graph, edge_vec, pca_policy, chosen, draws, edge_weight)
            )
    owner = torch.cat([part.system_idx for part in parts])
    order = torch.argsort(owner, stable=True)
    return Frames(
        rotations=torch.cat([part.rotations for part in parts])[order],
        system_idx=owner[order],
        degenerate=torch.stack([part.degenerate for part in parts]).any(0),
    )


def _pca(
    positions: Tensor,
    systems: Systems,
    graph: Graph,
    edge_vec: Tensor,
    policy: FramePolicy,
    chosen: list[int],
    draws: Tensor | None,
    edge_weight: Tensor | None,
) -> Frames:
    """Return the PCA frames of the chosen structures, from positions or edges by the policy."""
    if policy.source is FrameSource.EDGES:
        points = edge_points(edge_vec, systems, graph, policy.reach, policy.dimensions, edge_weight)
    else:
        points = position_points(positions, systems, policy.dimensions)
    edges = (edge_vec, systems.system_idx[graph.receivers])
    return pca_frames(points, systems, edges, policy, chosen, draws)
