"""Frame averaging: frames, orthogonal matrices that rotate a structure to a canonical orientation.

All functions are pure and differentiable. Vectors are rows, so canonical coordinates are `vectors @
rotation`, and a vector predicted in the frame is rotated back by `vector @ rotation.T`.

A frame policy names the source of the frames and how many of them are used:

* `averaged`: the average over all frames with one of the shortest in-plane lattice vectors along x,
  both mirror images included (12 for a hexagonal, 8 for a square or rhombic lattice, otherwise 4).
  Independent of the positions, so energies are continuous and gradient forces exact; invariant
  under rotation, re-wrapping and a change of the in-plane basis.
* `single`: one of them, with the first lattice vector along x. Several times faster, but dependent
  on the choice of the basis.
* `stochastic`: a random one of them, for training.
* `pca-...`: principal axes of the covariance of positions or edges (`pca-2d`, `pca-3d`,
  `pca-edges-2d`, `pca-edges-3d`, each with an optional `-se` for proper rotations only and `-one`
  or `-stochastic` for one frame; `-one` keeps all frames that are equivalent by a symmetry of the
  structure). Frames of positions change if an atom of a periodic structure is stored in another
  image, frames of edges do not.
* `rotations-2d`, `rotations-3d`: a uniformly random rotation or reflection, with `-se` a rotation;
  for training.
* `none`: the given orientation.
* `learned`: frames predicted by the canonicalizer of the network; see `geocalc.frames.learned`.

With the policies based on the lattice, molecules use `pca-3d` frames and structures periodic along
one vector use `pca-edges-3d` frames.

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
