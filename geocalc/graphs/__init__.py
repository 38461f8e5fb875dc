"""Which atoms are connected."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "Graph": "neighbors",
        "GraphSettings": "strategies",
        "NeighborCache": "neighbors",
        "Rewiring": "reduction",
        "Strategy": "strategies",
        "Truncation": "truncation",
        "build_graph": "neighbors",
        "count_edges": "neighbors",
        "edge_vectors": "neighbors",
        "keep_atoms": "reduction",
        "make_graph": "strategies",
    },
)
