"""From a few vectors of each structure to its frame, and what is done where they span none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.frames.dispatch import make_frames
from geocalc.frames.learned.base import Geometry
from geocalc.frames.learned.surroundings import Surroundings
from geocalc.frames.policy import Frames, frame_policy

# relative; vectors shorter than this have no direction: so small a change would turn the frame by a
# radian
TOLERANCE = 1e-3
FALLBACK = (
    "averaged"  # exact for every structure, and does not ask for the vectors that are missing
)


@dataclass(frozen=True, kw_only=True)
class FrameVectors:
    """Vectors that turn with their structure.

    Attributes:
        vectors: (n_systems, 3, n_vectors), in columns, as many as dimensions at least;
            differentiable.
        scale: (n_systems,) the usual length of what they are means of, which says how short is
            none.
        tied: (n_systems,) bool, structures whose vectors rest on a choice and are not to be used.
    """

    vectors: Tensor
    scale: Tensor
    tied: Tensor

    @classmethod
    def mean_of(cls, values: Tensor, near: Surroundings) -> FrameVectors:
        """Means over the atoms of each structure of their vectors (n_atoms, 3, n_vectors)."""
        scale = near.mean((values.detach() ** 2).sum(1).mean(1)).sqrt()
        return cls(
            vectors=near.mean(values), scale=scale, tied=torch.zeros_like(scale, dtype=torch.bool)
        )


def oriented(found: FrameVectors, geometry: Geometry, dimensions: int, proper: bool) -> Frames:
    """One frame for each structure, by Gram-Schmidt; where its vectors span none, a set of frames,
    and a flag.

    With `dimensions` 2 only the parts of the vectors in the xy plane count, and z stays. The last
    axis is normal to the others, in the right-handed sense, and without `proper` on the side of the
    next vector. Where that has no part along it, as in a structure that is its own mirror image,
    both ends are used; where vectors are missing for the axes before, the fallback.

    Args:
        found: from a network.
        geometry: the batch.
        dimensions: 2 or 3.
        proper: rotations only.
    """
    vectors = found.vectors[:, :dimensions]
    with torch.no_grad():
        _, heights = _gram_schmidt(vectors)
        clear = heights.abs() > TOLERANCE * found.scale[:, None]
        spanned = clear[:, :-1].all(1) & ~found.tied
        side = (
            torch.ones_like(found.scale)
            if proper
            else torch.where(clear[:, -1], heights[:, -1].sign(), 0.0)
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
    """Right-handed axes (n, d, d) in columns from vectors (n, d, n_vectors), and what is left of
    each vector on its axis, (n, d).
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
    """Directions (n, d) and lengths (n,); zero stays zero."""
    length = vectors.norm(dim=1)
    return vectors / length.clamp(min=torch.finfo(vectors.dtype).tiny)[:, None], length
