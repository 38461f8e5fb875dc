"""Relaxations of many structures: workers, batches, records and run folders."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "Input": "forms",
        "NamedPotential": "roles",
        "Record": "records",
        "RelaxSettings": "settings",
        "Result": "results",
        "RunFolder": "folder",
        "SecondOpinion": "records",
        "format_table": "table",
        "inputs_of": "forms",
        "open_run_folder": "runner",
        "relax_inputs": "runner",
        "run_relaxation": "runner",
        "versions": "runner",
    },
)
