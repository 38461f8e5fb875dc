"""Labeled structures and the training samples made of them."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "BatchLabels": "collate",
        "DISPLACEMENTS": "displacements",
        "Data": "settings",
        "DataPlan": "settings",
        "DataSource": "settings",
        "Noise": "settings",
        "ReferenceRelaxation": "prepare",
        "Sample": "store",
        "Samples": "store",
        "StoreInfo": "store",
        "collate_samples": "collate",
        "is_validation": "prepare",
        "locate": "read",
        "prepare_store": "prepare",
        "read_info": "store",
        "read_store": "store",
        "reference_relaxations": "prepare",
        "samples_of_file": "prepare",
        "samples_of_test": "prepare",
        "structures_of": "read",
        "write_store": "store",
    },
)
