"""Structures of ASE, pymatgen and files, and their conversion to `Systems`."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "LossyFormat": "readers",
        "Source": "readers",
        "Symmetry": "space_groups",
        "TagReading": "tags",
        "TagsConverted": "tags",
        "Unreadable": "readers",
        "chunks": "transforms",
        "count_structures": "readers",
        "find_symmetry": "space_groups",
        "format_extxyz": "extxyz",
        "from_atoms": "convert",
        "from_structure": "convert",
        "read_structures": "readers",
        "read_tags": "tags",
        "reflections": "transforms",
        "reordered": "transforms",
        "rewrapped": "transforms",
        "singles": "transforms",
        "supercell": "transforms",
        "symmetrize": "space_groups",
        "to_atoms": "convert",
        "transformed": "transforms",
        "translated": "transforms",
        "with_basis": "transforms",
    },
)
