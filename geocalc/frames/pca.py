"""Frames from principal axes of the atoms' positions or of the edges between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geocalc.core.systems import Systems
from geocalc.frames.axes import anchored_axes, principal_axes, split_axes, tie_sizes
from geocalc.frames.policy import FramePick, FramePolicy, Frames
from geocalc.frames.sampling import draw_members
from geocalc.graphs.neighbors import Graph

# rounding units of the total squared extent below which an axis has none: 1e-7 of the length in
# float64
NO_EXTENT = 50
# relative; odd moments within this of each other do not decide, well above rounding and below real
# asymmetry
NO_MOMENT = 1e-9
# Powers of the coordinates whose sums change sign with the axes; what the first ones leave open,
# the later ones decide.
ODD_POWERS = {
    2: ((3, 0), (0, 3), (2, 1), (1, 2), (3, 1), (1, 3)),
    3: (
        *((3, 0, 0), (0, 3, 0), (0, 0, 3), (1, 1, 1)),
        *((2, 1, 0), (2, 0, 1), (1, 2, 0), (0, 2, 1), (1, 0, 2), (0, 1, 2)),
        *((3, 1, 0), (3, 0, 1), (1, 3, 0), (0, 3, 1), (1, 0, 3), (0, 1, 3)),
    ),
}

# axes (d, d) in columns, and for each whether its sign is free
Basis = tuple[Tensor, tuple[bool, ...]]
Member = tuple[int, tuple[float, ...]]  # which basis, and the sign of each axis


@dataclass(frozen=True, kw_only=True)
class Points:
    """Vectors whose weighted covariance gives the axes, and the scalars that tell the ends of an
    axis apart.

    Attributes:
        vectors: (n, 3) Angstrom; atoms from the centroid of their structure, or edges.
        system_idx: (n,) int64, ascending.
        weights: (n,) of the covariance, not negative.
        charges: (n,) weights of the second covariance, asked where the first one ties.
        marks: (n_marks, n) weights of odd moments, in the order in which they are asked.
        bounds: (n_marks, n) what the size of a mark is to be judged against.
    """

    vectors: Tensor
    system_idx: Tensor
    weights: Tensor
    charges: Tensor
    marks: Tensor
    bounds: Tensor


def position_points(positions: Tensor, systems: Systems, dimensions: int) -> Points:
    """Atoms as they are stored, seen from their unweighted centroid.

    Args:
        positions: (n_atoms, 3) Angstrom; differentiable.
        systems: the batch.
        dimensions: with 2 the height of an atom is an invariant, and marks it.
    """
    owner = systems.system_idx
    count = systems.counts.clamp(min=1).to(positions.dtype)[:, None]
    centroid = positions.new_zeros((systems.n_systems, 3)).index_add(0, owner, positions) / count
    vectors = positions - centroid[owner]
    charges = systems.numbers.to(positions.dtype)
    ones = torch.ones_like(charges)
    height, length = vectors[:, 2].detach(), vectors.detach().norm(dim=1)
    marks, bounds = [ones, charges], [ones, charges]
    if dimensions == 2:
        marks.append(height)
        bounds.append(length)
    return Points(
        vectors=vectors,
        system_idx=owner,
        weights=ones,
        charges=charges,
        marks=torch.stack(marks),
        bounds=torch.stack(bounds),
    )


def edge_points(
    edge_vec: Tensor,
    systems: Systems,
    graph: Graph,
    reach: float,
    dimensions: int,
    edge_weight: Tensor | None = None,
) -> Points:
    """Edges within `reach`, fading out smoothly; the same whichever image of an atom is stored.

    Args:
        edge_vec: (n_edges, 3) Angstrom; differentiable.
        systems: the batch.
        graph: its edges.
        reach: Angstrom; the weight (1 - d^2 / reach^2)^3 and its first two derivatives vanish
            there.
        dimensions: with 2 the rise of an edge is an invariant, and marks it.
        edge_weight: (n_edges,) a further factor, of edges that fade out before that; None for one.
    """
    near = (edge_vec * edge_vec).sum(1).detach() < reach * reach
    vectors, senders, receivers = edge_vec[near], graph.senders[near], graph.receivers[near]
    square = (vectors * vectors).sum(1)
    weights = (1 - square / reach**2) ** 3
    weights = weights if edge_weight is None else weights * edge_weight[near]
    w = weights.detach()
    numbers = systems.numbers.to(w.dtype)
    crowding = w.new_zeros(systems.n_atoms).index_add(0, receivers, w)
    height, length = vectors[:, 2].detach(), square.detach().sqrt()
    marks, bounds = [], []
    for scalar in (numbers, crowding):
        marks.append(w * (scalar[senders] - scalar[receivers]))
        bounds.append(w * (scalar[senders] + scalar[receivers]))
    marks.append(w)
    bounds.append(w)
    if dimensions == 2:
        marks.append(w * height)
        bounds.append(w * length)
    return Points(
        vectors=vectors,
        system_idx=systems.system_idx[receivers],
        weights=weights,
        charges=numbers[senders] * numbers[receivers],
        marks=torch.stack(marks),
        bounds=torch.stack(bounds),
    )


def pca_frames(
    points: Points,
    systems: Systems,
    seen: tuple[Tensor, Tensor],
    policy: FramePolicy,
    wanted: Sequence[int],
    draws: Tensor | None = None,
) -> Frames:
    """Frames along the principal axes of the points, most extended axis first, under every allowed
    choice of signs.

    Ties are broken by the charge-weighted covariance, then by the fourth moment sum w |v|^2 v v^T;
    what is still tied (CH4, the plane of benzene) gives one frame for each of the longest vectors
    in it. Each step only knows the structure, so the set of poses is exact under rotation,
    reflection and permutation. `one` takes the frame whose odd moments are largest, compared in
    order, and of a symmetric structure all those that cannot be told apart, so that its forces keep
    the symmetry; they still jump where the symmetry breaks. A structure without extent has no axes:
    all signs, over which vectors vanish.

    Args:
        points: from `position_points` or `edge_points`; differentiable.
        systems: the batch.
        seen: (n_edges, 3) Angstrom and (n_edges,) int64: the edges that the network gets and their
            structures.
        policy: dimensions, proper and pick.
        wanted: structures to make frames for, ascending.
        draws: (n_systems, N_DRAWS) uniform numbers, needed by stochastic; see
            `geocalc.frames.sampling`.
    Raises:
        InputError: `draws` are missing.
    Source: Puny et al., Frame averaging (2022), sec. 3; Duval et al., FAENet (2023), sec. 4.
    """
    d, n_systems = policy.dimensions, systems.n_systems
    tensors, floors = _moments(points, n_systems)
    tensors = tensors[:, :, :d, :d]
    values, axes = principal_axes(tensors[0], floors[0])
    host_values, host_floors = values.tolist(), floors[0].tolist()
    bases: list[Basis] = []
    owner: list[int] = []
    degenerate = [False] * n_systems
    for k in wanted:
        sizes = tie_sizes(host_values[k], host_floors[k])
        options: list[Basis] = [(axes[k], (True,) * d)]
        if host_floors[k] == 0:
            options = [(torch.eye(d, dtype=axes.dtype, device=axes.device), (True,) * d)]
        elif max(sizes) > 1:
            options = _resolve(tensors[:, k], floors[:, k], points, k)
        if max(sizes) > 1:
            degenerate[k] = _reaches(axes[k], sizes, seen, k)
        bases += options
        owner += [k] * len(options)
    members = _signed(bases, owner, policy.proper, wanted)
    if policy.pick is FramePick.STOCHASTIC:
        drawn = draw_members(
            [len(m) for m in members], None if draws is None else draws[list(wanted)]
        )
        members = [[m[i]] for m, i in zip(members, drawn, strict=True)]
    elif policy.pick is FramePick.ONE:
        members = [
            m if len(m) == 1 else _preferred(m, bases, points, k)
            for m, k in zip(members, wanted, strict=True)
        ]
    return Frames(
        rotations=_rotations(bases, members, axes),
        system_idx=torch.tensor(
            [k for m, k in zip(members, wanted, strict=True) for _ in m],
            dtype=torch.int64,
            device=axes.device,
        ),
        degenerate=torch.tensor(degenerate, dtype=torch.bool, device=axes.device),
    )


def _moments(points: Points, n_systems: int) -> tuple[Tensor, Tensor]:
    """Covariance, charge-weighted covariance and fourth moment, (3, n_systems, 3, 3), and the noise
    of each, (3, n_systems).
    """
    v = points.vectors
    products = v[:, :, None] * v[:, None, :]
    scales = (points.weights, points.weights * points.charges, points.weights * (v * v).sum(1))
    zeros = v.new_zeros((n_systems, 3, 3))
    tensors = torch.stack(
        [zeros.index_add(0, points.system_idx, s[:, None, None] * products) for s in scales]
    )
    floors = (
        NO_EXTENT
        * torch.finfo(v.dtype).eps
        * torch.diagonal(tensors.detach(), dim1=-2, dim2=-1).sum(-1)
    )
    return tensors, floors


def _resolve(tensors: Tensor, floors: Tensor, points: Points, k: int) -> list[Basis]:
    """Bases of structure k, whose covariance leaves axes tied."""
    d = tensors.shape[-1]
    own = points.system_idx == k
    vectors, weights = points.vectors[own][:, :d], points.weights[own]
    blocks = split_axes(torch.eye(d, dtype=tensors.dtype, device=tensors.device), tensors, floors)
    options: list[list[Basis]] = []
    for block in blocks:
        size = block.shape[1]
        extent = float(((vectors @ block) ** 2 * weights[:, None]).detach().sum())
        if size == 1 or extent <= size * float(floors[0]):
            options.append([(block, (True,) * size)])
        else:
            options.append(list(anchored_axes(block, vectors, weights)))
    return [
        (
            torch.cat([axes for axes, _ in parts], dim=1),
            tuple(free for _, frees in parts for free in frees),
        )
        for parts in itertools.product(*options)
    ]


def _reaches(axes: Tensor, sizes: list[int], seen: tuple[Tensor, Tensor], k: int) -> bool:
    """Whether an edge of structure k has a component along tied axes: if none has, the pose does
    not depend on the tie.
    """
    edge_vec, edge_system = seen
    edges = edge_vec.detach()[edge_system == k]
    if len(edges) == 0:
        return False
    tied = torch.tensor([size > 1 for size in sizes for _ in range(size)], device=axes.device)
    along = (edges[:, : axes.shape[0]] @ axes.detach()[:, tied]).abs().max()
    return bool(along**2 > NO_EXTENT * torch.finfo(edges.dtype).eps * (edges * edges).sum(1).max())


def _signed(
    bases: list[Basis], owner: list[int], proper: bool, wanted: Sequence[int]
) -> list[list[Member]]:
    """Every allowed choice of signs on every basis, structure by structure."""
    members: dict[int, list[Member]] = {k: [] for k in wanted}
    if not bases:
        return []
    determinants = torch.linalg.det(torch.stack([axes.detach() for axes, _ in bases])).tolist()
    for b, ((_, free), k) in enumerate(zip(bases, owner, strict=True)):
        for signs in itertools.product(*[(1.0, -1.0) if f else (1.0,) for f in free]):
            if not proper or determinants[b] * np.prod(signs) > 0:
                members[k].append((b, signs))
    return list(members.values())


def _preferred(members: list[Member], bases: list[Basis], points: Points, k: int) -> list[Member]:
    """Members whose odd moments are the largest, compared in order: a choice that knows nothing but
    the structure.

    More than one where a symmetry of the structure makes them alike: their poses agree, their
    gradients only on average.
    """
    d = len(members[0][1])
    own = points.system_idx == k
    vectors = points.vectors.detach()[own].cpu().numpy()
    marks, bounds = points.marks[:, own].cpu().numpy(), points.bounds[:, own].cpu().numpy()
    length = np.linalg.norm(vectors, axis=1)
    axes = np.stack([bases[b][0].detach().cpu().numpy() * np.array(signs) for b, signs in members])
    poses = vectors[:, :d] @ axes
    left = np.arange(len(members))
    for powers in ODD_POWERS[d]:
        bound = bounds @ length ** sum(powers)
        for mark in marks[bound > 0] / bound[bound > 0, None]:
            if len(left) == 1:
                break
            moment = np.prod(poses[left] ** np.array(powers), axis=2) @ mark
            left = left[moment >= moment.max() - NO_MOMENT]
    return [members[i] for i in left.tolist()]


def _rotations(bases: list[Basis], members: list[list[Member]], like: Tensor) -> Tensor:
    """Members as matrices (n_frames, 3, 3); two-dimensional axes keep z."""
    chosen = [member for m in members for member in m]
    d = like.shape[-1]
    if not chosen:
        return like.new_zeros((0, 3, 3))
    index = torch.tensor([b for b, _ in chosen], device=like.device)
    signs = torch.tensor([s for _, s in chosen], dtype=like.dtype, device=like.device)
    axes = torch.stack([a for a, _ in bases])[index] * signs[:, None, :]
    if d == 3:
        return axes
    rotations = torch.eye(3, dtype=like.dtype, device=like.device).repeat(len(chosen), 1, 1)
    return torch.cat([torch.cat([axes, rotations[:, :2, 2:]], dim=2), rotations[:, 2:]], dim=1)
