"""Frame averaging: copy each structure into all of its frames, and average over the copies."""

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
    """Build the network input with one copy of each structure for each of its frames.

    Args:
        systems: batch of structures.
        graph: edges of the batch.
        levels: (n_systems,) int64, level of theory of each structure.
        frames: frames of the batch.
        edge_vec: (n_edges, 3) Angstrom, before rotation.
        dtype: floating-point type of the network.
        waves: reciprocal-space waves of each structure, or None.
        edge_weight: (n_edges,) factors on the envelopes, or None.
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
    """Compute mean and standard deviation of the frame energies, both (n_systems,).

    Args:
        per_frame: (n_frames,) energies.
        frames: frames of the batch.
        n_systems: number of structures.
    """
    owner = frames.system_idx
    count = torch.bincount(owner, minlength=n_systems).to(per_frame.dtype)
    mean = per_frame.new_zeros(n_systems).index_add(0, owner, per_frame) / count
    with torch.no_grad():
        deviation = (per_frame - mean[owner]) ** 2
        spread = (deviation.new_zeros(n_systems).index_add(0, owner, deviation) / count).sqrt()
    return mean, spread


def spread_of_members(energies: Tensor, frames: Frames, n_systems: int) -> Tensor:
    """Compute the standard deviation over the members of an ensemble, (n_systems,).

    Args:
        energies: (n_members, n_frames), averaged over frames first.
        frames: frames of the batch.
        n_systems: number of structures.
    """
    means = torch.stack([mean_over_frames(one, frames, n_systems)[0] for one in energies])
    return means.std(0, correction=1)


def vectors_to_lab(
    forces: Tensor, inputs: NetworkInput, frames: Frames, systems: Systems
) -> Tensor:
    """Rotate vectors of the copies back and average them over frames, (n_atoms, 3)."""
    turned = torch.einsum("ai,aji->aj", forces, frames.rotations[inputs.system_idx])
    return mean_over_copies(turned, frames, systems)


def mean_over_copies(values: Tensor, frames: Frames, systems: Systems) -> Tensor:
    """Average rows of copies (n_copies, ...) over the frames of each atom, (n_atoms, ...)."""
    owner = frames.system_idx
    if owner.shape[0] == systems.n_systems:
        return values
    rows, _, _ = _copies(systems.system_idx, systems.n_systems, owner)
    count = torch.bincount(owner, minlength=systems.n_systems)[systems.system_idx]
    total = values.new_zeros((systems.n_atoms, *values.shape[1:])).index_add(0, rows, values)
    return total / count.reshape(-1, *([1] * (values.dim() - 1)))


def _copies(system_idx: Tensor, n_systems: int, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List the rows of the structures of all frames, in the order of the frames.

    Args:
        system_idx: (n_rows,) structure of each row.
        n_systems: number of structures.
        owner: (n_frames,) structure of each frame.
    Returns:
        The original row and the frame of each copied row, both (n_copies,), and the shift of row
        numbers of each frame (n_frames,).
    """
    count = torch.bincount(system_idx, minlength=n_systems)
    first = torch.cumsum(count, 0) - count
    size = count[owner]
    start = torch.cumsum(size, 0) - size
    frame = torch.repeat_interleave(torch.arange(owner.shape[0], device=owner.device), size)
    shift = start - first[owner]
    rows = torch.arange(frame.shape[0], device=owner.device) - shift[frame]
    return rows, frame, shift
