"""File formats: one module each, and one line of `geocalc.structures.formats.catalog`."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "FORMATS": "catalog",
        "FileFormat": "base",
        "oc20_atoms": "oc20",
        "qm9_molecules": "qm9",
        "rmd17_structures": "rmd17",
        "write_qm9": "qm9",
    },
)
