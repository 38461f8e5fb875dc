"""The loop that moves atoms downhill."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "CellFilter": "cell_filters",
        "Progress": "state",
        "Proposal": "warm_start",
        "Relaxation": "state",
        "Snapshot": "state",
        "Status": "status",
        "relax_systems": "loop",
    },
)
