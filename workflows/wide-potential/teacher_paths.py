"""Label the first steps of relaxations with TensorNet-MatPES-PBE; the environment is that of
`teacher_tensornet.py`.

    MATGL_BACKEND=PYG teacher/bin/python teacher_paths.py WEIGHTS IN.extxyz OUT.extxyz

Every step of a structure is written with its energy and forces. Structures that OUT.extxyz holds are
not labeled again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ase import Atoms
from ase.optimize import BFGS
from teacher_relax import work_through

FMAX, STEPS, MAXSTEP = 0.05, 8, 0.15  # eV/Angstrom, steps, Angstrom
FAR = 20.0  # eV/Angstrom; steps with larger forces are left out


def path(atoms: Atoms) -> Iterator[Atoms]:
    """The structure after each step."""
    for step, _ in enumerate(BFGS(atoms, logfile=None, maxstep=MAXSTEP).irun(FMAX, STEPS)):
        forces = atoms.get_forces(apply_constraint=False)
        frame = atoms.copy()
        frame.info |= {"frame": step, "REF_energy": atoms.get_potential_energy()}
        frame.set_array("REF_forces", forces)
        if abs(forces).max() < FAR:
            yield frame


if __name__ == "__main__":
    work_through(path, *sys.argv[1:])
