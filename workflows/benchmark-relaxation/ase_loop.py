"""Relax structures one after the other with ASE and `GeoCalc`, in a separate process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from ase.optimize import BFGS
from emt_sets import KINDS, emt_set
from side import answer

from geocalc import GeoCalc


def make() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Load the model; answers are seconds, energies and calls of some structures of a set."""
    calculator = GeoCalc()

    def reply(question: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(question["threads"] or torch.get_num_threads())
        structures = emt_set(question["n"], question["seed"], KINDS["model"])[
            question["first"] : question["last"]
        ]
        energies, calls, converged = [], [], []
        start, processor = time.perf_counter(), time.process_time()
        for atoms in structures:
            atoms.calc = calculator
            optimizer = BFGS(atoms, logfile=None)
            converged.append(bool(optimizer.run(fmax=question["fmax"], steps=question["steps"])))
            energies.append(float(atoms.get_potential_energy()))
            calls.append(optimizer.nsteps + 1)
        seconds, processor_s = time.perf_counter() - start, time.process_time() - processor
        return {
            "seconds": seconds,
            "processor_s": processor_s,
            "energies": energies,
            "calls": calls,
            "converged": converged,
            "threads": torch.get_num_threads(),
        }

    return reply


if __name__ == "__main__":
    answer(make)
