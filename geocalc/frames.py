"""Frames: orthogonal matrices that turn a structure into a canonical pose; pure functions, differentiable.

Rows are vectors, so a pose is `vectors @ rotation`, and a vector predicted in the pose returns as `vector @ rotation.T`.

A policy names where frames come from and how many are used:

* `lattice`: every frame that puts one of the shortest in-plane lattice vectors along x, with both mirror images (12 for a
  hexagonal, 8 for a square, 4 for a rectangular cell), averaged. Independent of positions, so energies are continuous and
  gradient forces are exact; unchanged by rotation, re-wrapping and another choice of in-plane basis.
* `cell`: one of them, the first lattice vector along x: several times cheaper, depends on the choice of basis.
* `lattice-stochastic`: one of the `lattice` set at random; for training.
* `pca-...`: axes of the covariance of positions or edges (`pca-2d`, `pca-3d`, `pca-edges-2d`, `pca-edges-3d`, each with an
  optional `-se` for proper rotations only and `-one` or `-stochastic` for one frame).
* `rotations-2d`, `rotations-3d`: a uniformly random rotation or reflection; for training.
* `none`: the pose as given.

Structures without an in-plane lattice (molecules) use `pca-3d` frames under the lattice policies.

Source: Puny et al., Frame averaging (2022); Duval et al., FAENet (2023).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from geocalc.errors import InputError

SHORTEST_TOLERANCE = 1e-3  # relative; lattice vectors this close in length count as equally short


class FrameSource(StrEnum):
    """What the frames are computed from."""

    NONE = "none"
    LATTICE = "lattice"
    POSITIONS = "positions"
    EDGES = "edges"
    ROTATIONS = "rotations"


class FramePick(StrEnum):
    """How many frames of the set are used."""

    ALL = "all"
    ONE = "one"
    STOCHASTIC = "stochastic"


@dataclass(frozen=True)
class FramePolicy:
    """Where frames come from, how many are used, in how many dimensions, and whether mirror images count."""

    source: FrameSource
    pick: FramePick = FramePick.ALL
    dimensions: int = 2
    proper: bool = False


POLICIES = {
    "none": FramePolicy(FrameSource.NONE, FramePick.ONE),
    "lattice": FramePolicy(FrameSource.LATTICE),
    "cell": FramePolicy(FrameSource.LATTICE, FramePick.ONE),
    "lattice-stochastic": FramePolicy(FrameSource.LATTICE, FramePick.STOCHASTIC),
    "rotations-2d": FramePolicy(FrameSource.ROTATIONS, FramePick.STOCHASTIC, 2),
    "rotations-3d": FramePolicy(FrameSource.ROTATIONS, FramePick.STOCHASTIC, 3),
}
ALIASES = {"all": "lattice", "one": "cell", "stochastic": "lattice-stochastic"}


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a batch.

    Attributes:
        rotations: (n_frames, 3, 3) orthogonal, float64; columns are the axes of the pose.
        system_idx: (n_frames,) int64, ascending; the structure of each frame.
        degenerate: (n_systems,) bool, True where a tie between axes had to be broken.
    """

    rotations: Tensor
    system_idx: Tensor
    degenerate: Tensor


def lattice_frames(cell: Tensor, pbc: Tensor, pick: FramePick, generator: torch.Generator | None = None) -> Frames:
    """Frames from the lattice; see the top of this module.

    Args:
        cell: (n_systems, 3, 3) Angstrom. Differentiable: under strain the frames turn with the lattice.
        pbc: (n_systems, 3) bool; periodic along at least two vectors. With three, the third is taken as the slab normal.
        pick: all, one or stochastic.
        generator: source of randomness, needed by stochastic.
    Raises:
        InputError: a structure is periodic along fewer than two vectors, or `generator` is missing.
    """
    if bool((pbc.sum(1) < 2).any()):
        raise InputError("frames from the lattice need pbc along two cell vectors at least; use a pca policy for this structure")
    rotations, owner = [], []
    for k, (vectors, periodic) in enumerate(zip(cell, pbc.tolist(), strict=True)):
        normal_axis = periodic.index(False) if not all(periodic) else 2
        plane = [axis for axis in range(3) if axis != normal_axis]
        a, b, c = vectors[plane[0]], vectors[plane[1]], vectors[normal_axis]
        combos = [(1, 0)] if pick is FramePick.ONE else _shortest(a.detach().cpu().numpy(), b.detach().cpu().numpy())
        choices = [(m, n, mirror) for m, n in combos for mirror in (1.0, -1.0)]
        if pick is FramePick.STOCHASTIC:
            if generator is None:
                raise InputError("stochastic frames need a generator; pass one with a seed")
            choices = [choices[int(torch.randint(len(choices), (1,), generator=generator))]]
        normal = torch.linalg.cross(a, b)
        normal = normal / normal.norm()
        if float(normal @ c) < 0:  # c on the same side as the normal, or zero for a two-dimensional cell
            normal = -normal
        side = 1.0 if float(torch.linalg.cross(normal, a) @ b) > 0 else -1.0
        for m, n, mirror in choices[:1] if pick is FramePick.ONE else choices:
            x = m * a + n * b
            x = x / x.norm()
            rotations.append(torch.stack([x, mirror * side * torch.linalg.cross(normal, x), normal], dim=1))
            owner.append(k)
    return Frames(
        rotations=torch.stack(rotations),
        system_idx=torch.tensor(owner, device=cell.device),
        degenerate=torch.zeros(len(cell), dtype=torch.bool, device=cell.device),
    )


def _shortest(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Integer combinations (m, n) of all shortest vectors m a + n b, by Gauss reduction; sign pairs included."""
    u, v = np.array([1, 0]), np.array([0, 1])
    basis = np.stack([a, b])
    while True:
        if np.linalg.norm(u @ basis) > np.linalg.norm(v @ basis):
            u, v = v, u
        short = u @ basis
        step = int(np.rint((v @ basis) @ short / (short @ short)))
        if step == 0:
            break
        reduced = v - step * u
        if np.linalg.norm(reduced @ basis) >= np.linalg.norm(v @ basis) * (1 - 1e-12):
            break
        v = reduced
    around = [m * u + n * v for m, n in itertools.product((-1, 0, 1), repeat=2) if (m, n) != (0, 0)]
    lengths = np.array([np.linalg.norm(combo @ basis) for combo in around])
    near = lengths <= lengths.min() * (1 + SHORTEST_TOLERANCE)
    return [(int(combo[0]), int(combo[1])) for combo, keep in zip(around, near, strict=True) if keep]


def make_frames(
    positions: Tensor,
    cell: Tensor,
    systems: "Systems",
    graph: "Graph",
    edge_vec: Tensor,
    policy: FramePolicy,
    generator: torch.Generator | None = None,
) -> Frames:
    if policy.source is FrameSource.NONE:
        n = systems.n_systems
        eye = torch.eye(3, dtype=cell.dtype, device=cell.device).expand(n, 3, 3)
        return Frames(rotations=eye, system_idx=torch.arange(n), degenerate=torch.zeros(n, dtype=torch.bool))
    return lattice_frames(cell, systems.pbc, policy.pick, generator)
