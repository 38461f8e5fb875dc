"""Frames from the principal axes of the positions of atoms or of the edges between them."""

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

# machine epsilons of the total squared extent below which the extent along an axis is zero: 1e-7 of
# the length in float64
ZERO_EXTENT = 50
# relative; odd moments closer than this are equal: well above rounding and below real asymmetry
EQUAL_MOMENTS = 1e-9
# exponents of the coordinates of moments that change sign with an axis, in order of precedence
ODD_POWERS = {
    2: ((3, 0), (0, 3), (2, 1), (1, 2), (3, 1), (1, 3)),
    3: (
        *((3, 0, 0), (0, 3, 0), (0, 0, 3), (1, 1, 1)),
        *((2, 1, 0), (2, 0, 1), (1, 2, 0), (0, 2, 1), (1, 0, 2), (0, 1, 2)),
        *((3, 1, 0), (3, 0, 1), (1, 3, 0), (0, 3, 1), (1, 0, 3), (0, 1, 3)),
    ),
}

# axes (d, d) in columns, and for each axis whether its sign is undetermined
Basis = tuple[Tensor, tuple[bool, ...]]
Member = tuple[int, tuple[float, ...]]  # index of a basis, and the sign of each of its axes


@dataclass(frozen=True, kw_only=True)
class Points:
    """Weighted vectors whose covariance determines the axes, and scalars for the signs of the axes.

    Attributes:
        vectors: (n, 3) Angstrom; positions relative to the centroid of the structure, or edges.
        system_idx: (n,) int64, ascending; structure of each vector.
        weights: (n,) non-negative weights of the covariance.
        charges: (n,) weights of the second covariance, used where the first one has ties.
        odd_weights: (n_scalars, n) weights of odd moments, in order of precedence.
        odd_bounds: (n_scalars, n) upper bounds of the absolute odd weights, for normalization.
    """

    vectors: Tensor
    system_idx: Tensor
    weights: Tensor
    charges: Tensor
    odd_weights: Tensor
    odd_bounds: Tensor


def position_points(positions: Tensor, systems: Systems, dimensions: int) -> Points:
    """Return the stored positions relative to their unweighted centroid.

    Args:
        positions: (n_atoms, 3) Angstrom; differentiable.
        systems: the batch.
        dimensions: 2 or 3; with 2 the height of an atom is an invariant and weights odd moments.
    """
    owner = systems.system_idx
    count = systems.counts.clamp(min=1).to(positions.dtype)[:, None]
    centroid = positions.new_zeros((systems.n_systems, 3)).index_add(0, owner, positions) / count
    vectors = positions - centroid[owner]
    charges = systems.numbers.to(positions.dtype)
    ones = torch.ones_like(charges)
    height, length = vectors[:, 2].detach(), vectors.detach().norm(dim=1)
    odd_weights, odd_bounds = [ones, charges], [ones, charges]
    if dimensions == 2:
        odd_weights.append(height)
        odd_bounds.append(length)
    return Points(
        vectors=vectors,
        system_idx=owner,
        weights=ones,
        charges=charges,
        odd_weights=torch.stack(odd_weights),
        odd_bounds=torch.stack(odd_bounds),
    )


def edge_points(
    edge_vec: Tensor,
    systems: Systems,
    graph: Graph,
    reach: float,
    dimensions: int,
    edge_weight: Tensor | None = None,
) -> Points:
    """Return the edges shorter than `reach`, with weights that fade out smoothly.

    Independent of the stored images of the atoms.

    Args:
        edge_vec: (n_edges, 3) Angstrom; differentiable.
        systems: the batch.
        graph: its edges.
        reach: Angstrom; the weight (1 - d^2 / reach^2)^3 and its first two derivatives vanish
            there.
        dimensions: 2 or 3; with 2 the height difference of an edge is an invariant and weights odd
            moments.
        edge_weight: (n_edges,) additional factor, for edges with a weight of their own; None for
            one.
    """
    near = (edge_vec * edge_vec).sum(1).detach() < reach * reach
    vectors, senders, receivers = edge_vec[near], graph.senders[near], graph.receivers[near]
    square = (vectors * vectors).sum(1)
    weights = (1 - square / reach**2) ** 3
    weights = weights if edge_weight is None else weights * edge_weight[near]
    w = weights.detach()
    numbers = systems.numbers.to(w.dtype)
    coordination = w.new_zeros(systems.n_atoms).index_add(0, receivers, w)
    height, length = vectors[:, 2].detach(), square.detach().sqrt()
    odd_weights, odd_bounds = [], []
    for scalar in (numbers, coordination):
        odd_weights.append(w * (scalar[senders] - scalar[receivers]))
        odd_bounds.append(w * (scalar[senders] + scalar[receivers]))
    odd_weights.append(w)
    odd_bounds.append(w)
    if dimensions == 2:
        odd_weights.append(w * height)
        odd_bounds.append(w * length)
    return Points(
        vectors=vectors,
        system_idx=systems.system_idx[receivers],
        weights=weights,
        charges=numbers[senders] * numbers[receivers],
        odd_weights=torch.stack(odd_weights),
        odd_bounds=torch.stack(odd_bounds),
    )


def pca_frames(
    points: Points,
    systems: Systems,
    edges: tuple[Tensor, Tensor],
    policy: FramePolicy,
    chosen: Sequence[int],
    draws: Tensor | None = None,
) -> Frames:
    """Return frames along the principal axes of points, in order of decreasing extent.

    The set contains every allowed choice of signs. Ties are resolved by the charge-weighted
    covariance, then by the fourth moment sum w |v|^2 v v^T. An unresolved tie (CH4, the plane of
    benzene) gives one frame for each of the longest vectors in it. All steps are intrinsic to the
    structure, so the set of canonical orientations is exactly invariant under rotation, reflection
    and permutation.

    `one` selects the frame with the largest odd moments, compared in order. In a symmetric
    structure it keeps all frames that are equivalent by symmetry, so the forces have the symmetry
    of the structure; they are still discontinuous where the symmetry breaks. A structure without
    extent has no axes; it gets all sign choices, over which vectors average to zero.

    Args:
        points: from `position_points` or `edge_points`; differentiable.
        systems: the batch.
        edges: (n_edges, 3) Angstrom and (n_edges,) int64, the edges of the network and their
            structures.
        policy: dimensions, proper and pick.
        chosen: indices of the structures to compute frames for, ascending.
        draws: (n_systems, N_DRAWS) uniform random numbers, needed by stochastic; see
            `geocalc.frames.sampling`.
    Raises:
        InputError: `draws` is missing.
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
    for k in chosen:
        sizes = tie_sizes(host_values[k], host_floors[k])
        options: list[Basis] = [(axes[k], (True,) * d)]
        if host_floors[k] == 0:
            options = [(torch.eye(d, dtype=axes.dtype, device=axes.device), (True,) * d)]
        elif max(sizes) > 1:
            options = _resolve_ties(tensors[:, k], floors[:, k], points, k)
        if max(sizes) > 1:
            degenerate[k] = _has_edges_along_ties(axes[k], sizes, edges, k)
        bases += options
        owner += [k] * len(options)
    members = _sign_choices(bases, owner, policy.proper, chosen)
    if policy.pick is FramePick.STOCHASTIC:
        drawn = draw_members(
            [len(m) for m in members], None if draws is None else draws[list(chosen)]
        )
        members = [[m[i]] for m, i in zip(members, drawn, strict=True)]
    elif policy.pick is FramePick.ONE:
        members = [
            m if len(m) == 1 else _largest_odd_moments(m, bases, points, k)
            for m, k in zip(members, chosen, strict=True)
        ]
    return Frames(
        rotations=_rotations(bases, members, axes),
        system_idx=torch.tensor(
            [k for m, k in zip(members, chosen, strict=True) for _ in m],
            dtype=torch.int64,
            device=axes.device,
        ),
        degenerate=torch.tensor(degenerate, dtype=torch.bool, device=axes.device),
    )


def _moments(points: Points, n_systems: int) -> tuple[Tensor, Tensor]:
    """Return the covariance, charge-weighted covariance and fourth moment, and their noise levels.

    Returns:
        Tensors (3, n_systems, 3, 3), and noise levels (3, n_systems).
    """
    v = points.vectors
    products = v[:, :, None] * v[:, None, :]
    scales = (points.weights, points.weights * points.charges, points.weights * (v * v).sum(1))
    zeros = v.new_zeros((n_systems, 3, 3))
    tensors = torch.stack(
        [zeros.index_add(0, points.system_idx, s[:, None, None] * products) for s in scales]
    )
    floors = (
        ZERO_EXTENT
        * torch.finfo(v.dtype).eps
        * torch.diagonal(tensors.detach(), dim1=-2, dim2=-1).sum(-1)
    )
    return tensors, floors


def _resolve_ties(tensors: Tensor, floors: Tensor, points: Points, k: int) -> list[Basis]:
    """Return the bases of structure k, whose covariance has tied axes."""
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


def _has_edges_along_ties(
    axes: Tensor, sizes: list[int], edges: tuple[Tensor, Tensor], k: int
) -> bool:
    """Whether structure k has an edge with a component along tied axes.

    If it has none, the canonical orientation does not depend on the tie.
    """
    edge_vec, edge_system = edges
    own = edge_vec.detach()[edge_system == k]
    if len(own) == 0:
        return False
    tied = torch.tensor([size > 1 for size in sizes for _ in range(size)], device=axes.device)
    along = (own[:, : axes.shape[0]] @ axes.detach()[:, tied]).abs().max()
    return bool(along**2 > ZERO_EXTENT * torch.finfo(own.dtype).eps * (own * own).sum(1).max())


def _sign_choices(
    bases: list[Basis], owner: list[int], proper: bool, chosen: Sequence[int]
) -> list[list[Member]]:
    """Return every allowed choice of signs for every basis, grouped by structure."""
    members: dict[int, list[Member]] = {k: [] for k in chosen}
    if not bases:
        return []
    determinants = torch.linalg.det(torch.stack([axes.detach() for axes, _ in bases])).tolist()
    for b, ((_, free), k) in enumerate(zip(bases, owner, strict=True)):
        for signs in itertools.product(*[(1.0, -1.0) if f else (1.0,) for f in free]):
            if not proper or determinants[b] * np.prod(signs) > 0:
                members[k].append((b, signs))
    return list(members.values())


def _largest_odd_moments(
    members: list[Member], bases: list[Basis], points: Points, k: int
) -> list[Member]:
    """Return the members with the largest odd moments, compared in order.

    There is more than one if they are equivalent by a symmetry of the structure: their canonical
    orientations agree, their gradients only on average.
    """
    d = len(members[0][1])
    own = points.system_idx == k
    vectors = points.vectors.detach()[own].cpu().numpy()
    odd_weights = points.odd_weights[:, own].cpu().numpy()
    odd_bounds = points.odd_bounds[:, own].cpu().numpy()
    length = np.linalg.norm(vectors, axis=1)
    axes = np.stack([bases[b][0].detach().cpu().numpy() * np.array(signs) for b, signs in members])
    coordinates = vectors[:, :d] @ axes
    remaining = np.arange(len(members))
    for powers in ODD_POWERS[d]:
        bound = odd_bounds @ length ** sum(powers)
        for weights in odd_weights[bound > 0] / bound[bound > 0, None]:
            if len(remaining) == 1:
                break
            moment = np.prod(coordinates[remaining] ** np.array(powers), axis=2) @ weights
            remaining = remaining[moment >= moment.max() - EQUAL_MOMENTS]
    return [members[i] for i in remaining.tolist()]


def _rotations(bases: list[Basis], members: list[list[Member]], like: Tensor) -> Tensor:
    """Return the members as matrices (n_frames, 3, 3); two-dimensional axes leave z unchanged."""
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
