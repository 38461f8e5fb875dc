"""Energies and forces of other people's potentials on the test frames; runs in the environment of each.

    ENV/bin/python peers.py NAME FRAMES.extxyz OUT.npz [WEIGHTS]

NAME is one of the functions in PEERS; each says what its environment needs. OUT.npz holds `energies`
(n,) in eV, `forces` (n_atoms of all structures, 3) in eV/Angstrom and `seconds` (n,), the time of each
call on one thread. A frame that a potential refuses has NaN.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import iread


def geocalc(weights: str, level: str) -> Calculator:
    """A model of ours, at the level of theory of the frame."""
    from geocalc import GeoCalc

    return GeoCalc(weights, level=level)


def chgnet(weights: str, level: str) -> Calculator:
    """CHGNet 0.3: `pip install chgnet`."""
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu")


def sevennet_0(weights: str, level: str) -> Calculator:
    """SevenNet-0: `pip install sevenn`."""
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


def sevennet_l3i5(weights: str, level: str) -> Calculator:
    """SevenNet-l3i5: `pip install sevenn`."""
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-l3i5", device="cpu")


def tensornet(weights: str, level: str) -> Calculator:
    """TensorNet-MatPES-PBE v2025.1; its environment is that of `teacher_tensornet.py`."""
    import matgl
    from matgl.ext._ase_pyg import PESCalculator

    return PESCalculator(matgl.load_model(weights))


def nequix(weights: str, level: str) -> Calculator:
    """Nequix-OAM-1: `pip install --no-deps nequix`, and what it imports."""
    from nequix.calculator import NequixCalculator

    return NequixCalculator(model_path=weights, backend="torch", use_kernel=False)


PEERS: dict[str, Callable[[str, str], Calculator]] = {
    "geocalc": geocalc,
    "chgnet": chgnet,
    "sevennet-0": sevennet_0,
    "sevennet-l3i5": sevennet_l3i5,
    "tensornet": tensornet,
    "nequix": nequix,
}


def main(name: str, source: str, target: str, weights: str = "") -> None:
    """Evaluate every structure of `source`."""
    # only ours tells levels of theory apart
    make = functools.cache(lambda level: PEERS[name](weights, level))
    energies, forces, seconds = [], [], []
    for number, atoms in enumerate(iread(source)):
        atoms.pbc = True
        atoms.calc = make(atoms.info.get("level", "") if name == "geocalc" else "")
        if number == 0:
            evaluate(atoms)  # the first call warms up
        begun = time.perf_counter()
        energy, force = evaluate(atoms)
        seconds.append(time.perf_counter() - begun)
        energies.append(energy)
        forces.append(force)
    np.savez(target, energies=energies, forces=np.concatenate(forces), seconds=seconds)


def evaluate(atoms: Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces; NaN where the potential refuses, e.g. elements that it has not learned."""
    atoms.calc.results.clear()
    try:
        return atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
    except (ValueError, KeyError, RuntimeError, IndexError) as error:
        print(atoms.info.get("sid"), error, flush=True)
        return np.nan, np.full((len(atoms), 3), np.nan)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
