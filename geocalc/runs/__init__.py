"""Relaxations of many structures: workers, batches, records and run folders."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "Job": "runner",
        "NamedPotential": "engine",
        "Record": "records",
        "RelaxSettings": "settings",
        "Relaxed": "runner",
        "RunFolder": "folder",
        "SecondOpinion": "records",
        "format_table": "table",
        "jobs_of": "runner",
        "open_run_folder": "runner",
        "relax_jobs": "runner",
        "run_relaxation": "runner",
        "versions": "runner",
    },
)
