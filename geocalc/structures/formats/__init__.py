"""File formats that ASE does not read, one module each."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "oc20_atoms": "oc20",
        "qm9_frames": "qm9",
        "rmd17_frames": "rmd17",
        "write_qm9": "qm9",
    },
)
