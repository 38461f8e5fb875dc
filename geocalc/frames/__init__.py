"""Frame averaging: orthogonal matrices that turn a structure into a canonical pose.

`geocalc.frames.policy` describes the policies, `geocalc.frames.learned` the learned ones.
"""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "FramePick": "policy",
        "FramePolicy": "policy",
        "FrameSource": "policy",
        "Frames": "policy",
        "POLICIES": "policy",
        "Points": "pca",
        "SHORTEST_TOLERANCE": "lattice",
        "edge_points": "pca",
        "frame_policy": "policy",
        "lattice_frames": "lattice",
        "make_frames": "dispatch",
        "pca_frames": "pca",
        "position_points": "pca",
        "random_rotations": "sampling",
    },
)
