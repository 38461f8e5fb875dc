"""Label the first steps of relaxations with TensorNet-MatPES-PBE; the environment is that of
`teacher_tensornet.py`.

    MATGL_BACKEND=PYG teacher/bin/python teacher_paths.py WEIGHTS IN.extxyz OUT.extxyz

Every step of a structure is written with its energy and forces. Structures that OUT.extxyz holds are
not labeled again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matgl
import torch
from ase.io import iread, write
from ase.optimize import BFGS
from matgl.ext._ase_pyg import PESCalculator

FMAX, STEPS, MAXSTEP = 0.05, 8, 0.15  # eV/Angstrom, steps, Angstrom
FAR = 20.0  # eV/Angstrom; steps with larger forces are left out


def main(weights: str, source: str, target: str) -> None:
    """Label the path of every structure of `source`."""
    if not matgl.__version__.startswith("2."):
        raise SystemExit(f"matgl {matgl.__version__} reads these weights wrongly; install 2.0.4")
    potential = matgl.load_model(weights)
    potential.calc_stresses = False
    calculator = PESCalculator(potential)
    done = {atoms.info["sid"] for atoms in iread(target)} if Path(target).exists() else set()
    for atoms in iread(source):
        if atoms.info["sid"] in done:
            continue
        atoms.calc, path = calculator, []
        for step, _ in enumerate(BFGS(atoms, logfile=None, maxstep=MAXSTEP).irun(FMAX, STEPS)):
            forces = atoms.get_forces(apply_constraint=False)
            frame = atoms.copy()
            frame.info |= {"frame": step, "REF_energy": atoms.get_potential_energy()}
            frame.set_array("REF_forces", forces)
            if abs(forces).max() < FAR:
                path.append(frame)
        write(target, path, format="extxyz", append=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
