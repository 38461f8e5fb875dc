"""One copy of a structure for each of its frames, and back: means over the copies."""

from __future__ import annotations

import torch
from torch import Tensor

from geocalc.architectures.base import NetworkInput
from geocalc.core.systems import Systems
from geocalc.frames.policy import Frames
from geocalc.graphs.neighbors import Graph, pair_edges
from geocalc.nn.edges import EdgeIndex
from geocalc.nn.ewald.waves import Waves


def replicate(
    systems: Systems,
    graph: Graph,
    levels: Tensor,
    frames: Frames,
    edge_vec: Tensor,
    dtype: torch.dtype,
    waves: Waves | None = None,
    edge_weight: Tensor | None = None,
) -> NetworkInput:
    """One copy of each structure for every frame of it, stacked along the batch; `edge_weight` is
    (n_edges,).
    """
    owner = frames.system_idx
    n_frames = owner.shape[0]
    edge_system = systems.system_idx[graph.receivers]
    pair_of = pair_edges(graph, systems.n_atoms)
    atoms: Tensor | slice
    edges: Tensor | slice
    if n_frames == systems.n_systems:
        atoms, edges, senders, receivers = slice(None), slice(None), graph.senders, graph.receivers
        frame_of_atom, frame_of_edge = systems.system_idx, edge_system
    else:
        atoms, frame_of_atom, atom_shift = _copies(systems.system_idx, systems.n_systems, owner)
        edges, frame_of_edge, _ = _copies(edge_system, systems.n_systems, owner)
        senders = graph.senders[edges] + atom_shift[frame_of_edge]
        receivers = graph.receivers[edges] + atom_shift[frame_of_edge]
        pair_system = edge_system.new_zeros(
            int(pair_of.max()) + 1 if graph.n_edges else 0
        ).scatter_(0, pair_of, edge_system)
        _, _, pair_shift = _copies(pair_system, systems.n_systems, owner)
        pair_of = pair_of[edges] + pair_shift[frame_of_edge]
    pose = torch.einsum("ei,eij->ej", edge_vec[edges], frames.rotations[frame_of_edge])
    return NetworkInput(
        numbers=systems.numbers[atoms],
        tags=systems.tags[atoms],
        system_idx=frame_of_atom,
        n_systems=n_frames,
        index=EdgeIndex.build(senders, receivers, frame_of_atom.shape[0], pair_of),
        edge_vec=pose.to(dtype),
        levels=levels[owner],
        waves=None if waves is None else waves.copies(owner, frame_of_atom, dtype),
        edge_weight=None if edge_weight is None else edge_weight[edges, None].to(dtype),
    )


def mean_over_frames(per_frame: Tensor, frames: Frames, n_systems: int) -> tuple[Tensor, Tensor]:
    """Mean and population spread of the frame energies of each structure, both (n_systems,)."""
    owner = frames.system_idx
    count = torch.bincount(owner, minlength=n_systems).to(per_frame.dtype)
    mean = per_frame.new_zeros(n_systems).index_add(0, owner, per_frame) / count
    with torch.no_grad():
        deviation = (per_frame - mean[owner]) ** 2
        spread = (deviation.new_zeros(n_systems).index_add(0, owner, deviation) / count).sqrt()
    return mean, spread


def spread_of_members(energies: Tensor, frames: Frames, n_systems: int) -> Tensor:
    """Standard deviation over members (n_members, n_frames) of their means over frames,
    (n_systems,).
    """
    means = torch.stack([mean_over_frames(one, frames, n_systems)[0] for one in energies])
    return means.std(0, correction=1)


def vectors_to_lab(
    forces: Tensor, inputs: NetworkInput, frames: Frames, systems: Systems
) -> Tensor:
    """Direct forces of every copy turned back and averaged over the frames of each structure,
    (n_atoms, 3).
    """
    turned = torch.einsum("ai,aji->aj", forces, frames.rotations[inputs.system_idx])
    return mean_over_copies(turned, frames, systems)


def mean_over_copies(values: Tensor, frames: Frames, systems: Systems) -> Tensor:
    """Rows of the copies of each atom, (n_copies, ...), averaged: (n_atoms, ...)."""
    owner = frames.system_idx
    if owner.shape[0] == systems.n_systems:
        return values
    rows, _, _ = _copies(systems.system_idx, systems.n_systems, owner)
    count = torch.bincount(owner, minlength=systems.n_systems)[systems.system_idx]
    total = values.new_zeros((systems.n_atoms, *values.shape[1:])).index_add(0, rows, values)
    return total / count.reshape(-1, *([1] * (values.dim() - 1)))


def _copies(system_idx: Tensor, n_systems: int, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of `owner`'s structures in order: the rows, the frame of each, and what to add to row
    numbers of a frame.
    """
    count = torch.bincount(system_idx, minlength=n_systems)
    first = torch.cumsum(count, 0) - count
    size = count[owner]
    start = torch.cumsum(size, 0) - size
    frame = torch.repeat_interleave(torch.arange(owner.shape[0], device=owner.device), size)
    shift = start - first[owner]
    rows = torch.arange(frame.shape[0], device=owner.device) - shift[frame]
    return rows, frame, shift
