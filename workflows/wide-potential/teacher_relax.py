"""Relax structures with TensorNet-MatPES-PBE; the environment is that of `teacher_tensornet.py`.

    MATGL_BACKEND=PYG teacher/bin/python teacher_relax.py WEIGHTS IN.extxyz OUT.extxyz

Structures that OUT.extxyz holds are not relaxed again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matgl
import torch
from ase.io import iread, write
from ase.optimize import BFGS
from matgl.ext._ase_pyg import PESCalculator

FMAX, STEPS = 0.05, 200  # eV/Angstrom


def main(weights: str, source: str, target: str) -> None:
    """Relax every structure of `source`."""
    if not matgl.__version__.startswith("2."):
        raise SystemExit(f"matgl {matgl.__version__} reads these weights wrongly; install 2.0.4")
    calculator = PESCalculator(matgl.load_model(weights), stress_weight=1.0)
    done = {atoms.info["sid"] for atoms in iread(target)} if Path(target).exists() else set()
    for atoms in iread(source):
        if atoms.info["sid"] in done:
            continue
        atoms.calc = calculator
        converged = BFGS(atoms, logfile=None).run(fmax=FMAX, steps=STEPS)
        relaxed = atoms.copy()
        relaxed.info |= {"energy_teacher": atoms.get_potential_energy(), "converged": converged}
        write(target, relaxed, format="extxyz", append=True)
        print(atoms.info["sid"], converged, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
