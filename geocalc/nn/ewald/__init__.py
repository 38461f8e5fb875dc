"""Ewald message passing: messages between atoms beyond the cutoff."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "EwaldBlock": "blocks",
        "EwaldFilter": "blocks",
        "EwaldSettings": "waves",
        "Filter": "waves",
        "PairWaves": "waves",
        "PlaneWaves": "waves",
        "Waves": "waves",
        "make_waves": "waves",
    },
)
