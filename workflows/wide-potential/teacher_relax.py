"""Relax structures with TensorNet-MatPES-PBE; the environment is that of `teacher_tensornet.py`.

    MATGL_BACKEND=PYG teacher/bin/python teacher_relax.py WEIGHTS IN.extxyz OUT.extxyz

Structures that OUT.extxyz holds are not relaxed again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matgl
import torch
from ase import Atoms
from ase.io import iread, write
from ase.optimize import BFGS
from matgl.ext._ase_pyg import PESCalculator

FMAX, STEPS = 0.05, 200  # eV/Angstrom


def relaxed(atoms: Atoms) -> Iterator[Atoms]:
    """The relaxed structure."""
    converged = BFGS(atoms, logfile=None).run(fmax=FMAX, steps=STEPS)
    end = atoms.copy()
    end.info |= {"energy_teacher": atoms.get_potential_energy(), "converged": converged}
    print(atoms.info["sid"], converged, flush=True)
    yield end


def work_through(
    work: Callable[[Atoms], Iterable[Atoms]], weights: str, source: str, target: str
) -> None:
    """Write what `work` makes of every structure of `source` that `target` does not hold.

    Args:
        work: gets a structure with the teacher as its calculator.
        weights: folder.
        source, target: files of structures with a `sid`.
    """
    if not matgl.__version__.startswith("2."):
        raise SystemExit(f"matgl {matgl.__version__} reads these weights wrongly; install 2.0.4")
    torch.set_num_threads(1)
    potential = matgl.load_model(weights)
    potential.calc_stresses = False
    calculator = PESCalculator(potential)
    done = {atoms.info["sid"] for atoms in iread(target)} if Path(target).exists() else set()
    for atoms in iread(source):
        if atoms.info["sid"] not in done:
            atoms.calc = calculator
            write(target, list(work(atoms)), format="extxyz", append=True)


if __name__ == "__main__":
    work_through(relaxed, *sys.argv[1:])
