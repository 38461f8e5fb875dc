"""Compute energies, forces and relaxations with MACE or CHGNet.

Usage:
    python peer_answers.py mace|chgnet FOLDER [speed]

Runs in an environment with that model, with the relaxation loop of this checkout. Writes
FOLDER/mace.npz or FOLDER/chgnet.npz: single points of points.extxyz, relaxations of starts.extxyz
(quasi-newton, fmax 0.05 eV/A, at most 300 steps), and, for a model of total energies, relaxations
of relaxed.extxyz and of the clean slabs that energies are relative to. With `speed` it writes the
seconds of each start to FOLDER/mace-seconds.npy or FOLDER/chgnet-seconds.npy.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms

from geocalc import from_atoms
from geocalc.optim import make_optimizer
from geocalc.potentials import AsePotential
from geocalc.relaxation import relax_systems

FMAX, STEPS = 0.05, 300


def calculator_of(name: str, folder: Path) -> Any:
    """The ASE calculator of a peer."""
    if name == "mace":
        from mace.calculators import MACECalculator

        return MACECalculator(
            model_paths=str(folder / "mace.model"), device="cpu", default_dtype="float32"
        )
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu")


def points(calculator: Any, frames: list[Atoms]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies (n,), forces (n_atoms, 3) of all, and processor seconds of each."""
    energies, forces, seconds = [], [], []
    for atoms in frames:
        start = time.process_time()
        calculator.calculate(atoms, ["energy", "forces"])
        seconds.append(time.process_time() - start)
        energies.append(float(calculator.results["energy"]))
        forces.append(np.array(calculator.results["forces"]))
    return np.array(energies), np.concatenate(forces), np.array(seconds)


def relaxed(calculator: Any, frames: list[Atoms]) -> dict[str, np.ndarray]:
    """Where each ends."""
    found = []
    for atoms in frames:
        systems = from_atoms(atoms, use_tags=False)
        (ended,) = relax_systems(
            systems,
            AsePotential(calculator=calculator),
            make_optimizer("quasi-newton"),
            FMAX,
            STEPS,
        )
        found.append(ended)
    return {
        "energy": np.array([e.energy for e in found]),
        "positions": np.concatenate([e.systems.positions.numpy() for e in found]),
        "status": np.array([e.status.value for e in found]),
        "calls": np.array([e.n_evaluations for e in found]),
    }


def main(name: str, folder: Path, what: str = "answers") -> None:
    """Answer everything, or time."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    calculator = calculator_of(name, folder)
    read = {
        part: list(ase.io.iread(folder / f"{part}.extxyz"))
        for part in ("points", "starts", "relaxed", "slabs")
    }
    if what == "speed":
        np.save(folder / f"{name}-seconds.npy", points(calculator, read["starts"])[2])
        return
    energies, forces, _ = points(calculator, read["points"])
    told: dict[str, Any] = {"energies": energies, "forces": forces}
    told |= {f"relaxed_{key}": value for key, value in relaxed(calculator, read["starts"]).items()}
    if name != "mace":
        told["training_energies"] = points(calculator, read["relaxed"])[0]
        told["slab_energies"] = relaxed(calculator, read["slabs"])["energy"]
        told["slab_metals"] = np.array([atoms.get_chemical_symbols()[0] for atoms in read["slabs"]])
    np.savez(folder / f"{name}.npz", **told)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
