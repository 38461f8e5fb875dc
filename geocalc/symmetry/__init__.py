"""Point groups of structures and tensors, and the symmetry that a network with learned weights
breaks.
"""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "Axes": "report",
        "LayerBreaking": "report",
        "Orientation": "orientations",
        "Stabilizer": "stabilizers",
        "SymmetryBreaking": "report",
        "best_orientation": "orientations",
        "breaking_text": "report",
        "find_point_group": "structure_groups",
        "harmonics": "invariants",
        "identify_point_group": "point_groups",
        "invariant_basis": "invariants",
        "invariant_projector": "invariants",
        "plot_breaking": "plot",
        "point_group": "point_groups",
        "quadrupole_matrix": "invariants",
        "rotated_group": "point_groups",
        "symmetry_breaking": "report",
        "wigner_matrix": "invariants",
    },
)
