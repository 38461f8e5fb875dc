"""Relax a few slabs with CHGNet, in ASE's loop and in geocalc's, with the same ASE calculator.

Runs in an environment with chgnet, torch, scipy and ASE; geocalc is imported from this checkout.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.optimize import BFGS
from emt_sets import KINDS, emt_set
from side import answer

warnings.filterwarnings("ignore")
from chgnet.model.dynamics import CHGNetCalculator  # noqa: E402

from geocalc import from_atoms  # noqa: E402
from geocalc.optim import OPTIMIZERS  # noqa: E402
from geocalc.potentials import AsePotential  # noqa: E402
from geocalc.relaxation import relax_systems  # noqa: E402

FMAX, STEPS = 0.05, 200


def relax(calculator: Any, way: str, structures: list[Atoms]) -> dict[str, Any]:
    """Seconds, model calls, energies and convergence of `structures` relaxed by ASE's BFGS or by an
    optimizer of ours.
    """
    calls, energies, converged = [], [], []
    start = time.perf_counter()
    for atoms in structures:
        if way == "ASE BFGS":
            atoms.calc = calculator
            optimizer = BFGS(atoms, logfile=None)
            converged.append(bool(optimizer.run(fmax=FMAX, steps=STEPS)))
            calls.append(optimizer.nsteps + 1)
            energies.append(float(atoms.get_potential_energy()))
        else:
            systems = from_atoms(atoms, use_tags=False)
            (ended,) = relax_systems(
                systems, AsePotential(calculator=calculator), OPTIMIZERS[way](), FMAX, STEPS
            )
            converged.append(ended.converged)
            calls.append(ended.n_evaluations)
            energies.append(ended.energy)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "calls": float(np.mean(calls)),
        "energies": energies,
        "converged": float(np.mean(converged)),
    }


def make() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Load the model."""
    torch.set_num_threads(1)
    calculator = CHGNetCalculator(use_device="cpu")
    return lambda asked: relax(
        calculator,
        asked["way"],
        emt_set(asked["n"], asked["seed"], KINDS["model"])[asked["first"] :],
    )


if __name__ == "__main__":
    answer(make)
