"""Frames from a few vectors of each structure, with a fallback for vectors that span none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.frames.dispatch import make_frames
from geocalc.frames.learned.base import Geometry
from geocalc.frames.learned.environment import LocalEnvironment
from geocalc.frames.policy import Frames, frame_policy

# relative length below which a vector is taken as zero: a change of this size would rotate the
# frame by a radian
TOLERANCE = 1e-3
FALLBACK = "averaged"  # exactly equivariant for every structure, and independent of the vectors


@dataclass(frozen=True, kw_only=True)
class FrameVectors:
    """Equivariant vectors of each structure.

    Attributes:
        vectors: (n_systems, 3, n_vectors) in columns, at least as many as dimensions;
            differentiable.
        scale: (n_systems,) root mean square length of the vectors before averaging, the reference
            for vanishing means.
        tied: (n_systems,) bool, True for structures whose vectors depend on an arbitrary choice and
            must not be used.
    """

    vectors: Tensor
    scale: Tensor
    tied: Tensor

    @classmethod
    def mean_of(cls, values: Tensor, environment: LocalEnvironment) -> FrameVectors:
        """Average vectors of atoms (n_atoms, 3, n_vectors) over each structure."""
        scale = environment.mean_over_atoms((values.detach() ** 2).sum(1).mean(1)).sqrt()
        return cls(
            vectors=environment.mean_over_atoms(values),
            scale=scale,
            tied=torch.zeros_like(scale, dtype=torch.bool),
        )


def frames_from_vectors(
    found: FrameVectors, geometry: Geometry, dimensions: int, proper: bool
) -> Frames:
    """Return one frame for each structure by Gram-Schmidt orthogonalization of its vectors.

    With `dimensions` 2 only the components in the xy plane are used, and z is an axis of the frame.
    The last axis is normal to the others; with `proper` it makes the frame right-handed, otherwise
    it points to the side of the next vector. If that vector has no component along the normal, as
    in a structure that is its own mirror image, both directions are used. If vectors for the other
    axes are missing, the fallback policy is used. Both cases are marked as degenerate.

    Args:
        found: vectors predicted by a network.
        geometry: the batch.
        dimensions: 2 or 3.
        proper: rotations only.
    """
    vectors = found.vectors[:, :dimensions]
    with torch.no_grad():
        _, heights = _gram_schmidt(vectors)
        nonzero = heights.abs() > TOLERANCE * found.scale[:, None]
        spanned = nonzero[:, :-1].all(1) & ~found.tied
        side = (
            torch.ones_like(found.scale)
            if proper
            else torch.where(nonzero[:, -1], heights[:, -1].sign(), 0.0)
        )
    one, two = torch.nonzero(spanned)[:, 0], torch.nonzero(spanned & (side == 0))[:, 0]
    owner, last = (
        torch.cat([one, two]),
        torch.cat([torch.where(side == 0, 1.0, side)[one], -torch.ones_like(side[two])]),
    )
    axes, _ = _gram_schmidt(vectors[owner])
    rotations = torch.eye(3).to(axes).repeat(len(owner), 1, 1)
    rotations[:, :dimensions, :dimensions] = torch.cat(
        [axes[:, :, :-1], axes[:, :, -1:] * last[:, None, None]], dim=2
    )
    if not bool(spanned.all()):
        g = geometry
        policy = frame_policy(FALLBACK)
        others = make_frames(
            g.positions, g.cell, g.systems, g.graph, g.edge_vec, policy, edge_weight=g.edge_weight
        )
        missing = ~spanned[others.system_idx]
        rotations = torch.cat([rotations, others.rotations[missing]])
        owner = torch.cat([owner, others.system_idx[missing]])
    order = torch.argsort(owner, stable=True)
    return Frames(
        rotations=rotations[order], system_idx=owner[order], degenerate=~spanned | (side == 0)
    )


def _gram_schmidt(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return right-handed axes (n, d, d) in columns from vectors (n, d, n_vectors).

    Also return the component of each vector along its axis, (n, d).
    """
    first, length = _unit(vectors[:, :, 0])
    if vectors.shape[1] == 2:
        last = torch.stack([-first[:, 1], first[:, 0]], dim=1)
        return torch.stack([first, last], dim=2), torch.stack(
            [length, (vectors[:, :, 1] * last).sum(1)], dim=1
        )
    across = vectors[:, :, 1] - (vectors[:, :, 1] * first).sum(1, keepdim=True) * first
    second, height = _unit(across)
    last = torch.linalg.cross(first, second)
    return torch.stack([first, second, last], dim=2), torch.stack(
        [length, height, (vectors[:, :, 2] * last).sum(1)], dim=1
    )


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the directions (n, d) and lengths (n,) of vectors; zero vectors remain zero."""
    length = vectors.norm(dim=1)
    return vectors / length.clamp(min=torch.finfo(vectors.dtype).tiny)[:, None], length
