"""Frames: orthogonal matrices that turn a structure into a canonical pose; pure functions,
differentiable.

Rows are vectors, so a pose is `vectors @ rotation`, and a vector predicted in the pose returns as
`vector @ rotation.T`.

A policy names where frames come from and how many are used:

* `averaged`: every frame that puts one of the shortest in-plane lattice vectors along x, with both mirror images (12 for a
  hexagonal, 8 for a square or rhombic, else 4), averaged. Independent of positions, so energies are
  continuous and gradient forces are exact; unchanged by rotation, re-wrapping and another choice of
  in-plane basis.
* `single`: one of them, the first lattice vector along x: several times cheaper, depends on the choice of basis.
* `stochastic`: one of the `averaged` set at random; for training.
* `pca-...`: axes of the covariance of positions or edges (`pca-2d`, `pca-3d`, `pca-edges-2d`, `pca-edges-3d`, each with an
  optional `-se` for proper rotations only and `-one` or `-stochastic` for one frame; `-one` keeps
  all frames that the symmetry of the structure makes alike). Those of positions change when an atom
  of a periodic structure is stored in another image; those of edges do not.
* `rotations-2d`, `rotations-3d`: a uniformly random rotation or reflection, with `-se` a rotation; for training.
* `none`: the pose as given.
* `learned`: what the canonicalizer of the network gives, see `geocalc.frames.learned`.

Under the lattice policies molecules use `pca-3d` frames and structures periodic along one vector
`pca-edges-3d` frames.

Source: Puny et al., Frame averaging (2022); Duval et al., FAENet (2023).
"""

from __future__ import annotations

from geocalc.frames.dispatch import make_frames
from geocalc.frames.lattice import SHORTEST_TOLERANCE, lattice_frames
from geocalc.frames.pca import Points, edge_points, pca_frames, position_points
from geocalc.frames.policy import (
    POLICIES,
    FramePick,
    FramePolicy,
    Frames,
    FrameSource,
    frame_policy,
)
from geocalc.frames.sampling import random_rotations

__all__ = [
    "POLICIES",
    "SHORTEST_TOLERANCE",
    "FramePick",
    "FramePolicy",
    "FrameSource",
    "Frames",
    "Points",
    "edge_points",
    "frame_policy",
    "lattice_frames",
    "make_frames",
    "pca_frames",
    "position_points",
    "random_rotations",
]
