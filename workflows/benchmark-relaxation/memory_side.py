"""Relax a stream of structures with `geocalc.iter_relax` and measure the memory of the process."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling import stream
from side import answer

import geocalc
from geocalc.core import configure_process


def resident() -> float:
    """MB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def make() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Load the model, and note what is held before any work."""
    configure_process()
    geocalc.load_model(sys.argv[1])
    loaded = resident()

    def reply(question: dict[str, Any]) -> dict[str, Any]:
        n, steps, watched = question["n"], question["steps"], []
        start = time.perf_counter()
        results = geocalc.iter_relax(
            stream(n, "model"), sys.argv[1], frames="single", steps=steps, optimizer="quasi-newton"
        )
        for k, _ in enumerate(results, 1):
            if k % max(1, n // 10) == 0:
                watched.append(resident())
        return {
            "n": n,
            "steps": steps,
            "seconds": time.perf_counter() - start,
            "loaded_mb": loaded,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 * 1.024,
            "held_mb": watched,
        }

    return reply


if __name__ == "__main__":
    answer(make)
