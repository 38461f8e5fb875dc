"""Network architectures: one file each, and one line of `geocalc.architectures.catalog`."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "ARCHITECTURES": "catalog",
        "Architecture": "catalog",
        "Convolution": "regnn.convolution",
        "Ensemble": "ensemble",
        "FAENet": "faenet",
        "FAENetSettings": "faenet",
        "Network": "base",
        "NetworkInput": "base",
        "NetworkOutput": "base",
        "REGNN": "regnn.network",
        "REGNNSettings": "regnn.network",
        "RelaxedFilters": "regnn.filters",
        "RelaxedLayer": "regnn.layer",
        "SchNet": "schnet",
        "SchNetSettings": "schnet",
        "all_irreps": "regnn.filters",
    },
)
