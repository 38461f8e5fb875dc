"""Label displaced copies of relaxed DFT structures with a teacher, anchored at the DFT geometry; see
`geocalc.train.anchors`.

Labels are written in files of some parents each; files that exist are not made again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write
from parents import SETS, Parent

from geocalc.train import label_anchors

PARENTS = 40  # in a file


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A teacher in an environment of its own.

    Attributes:
        python: interpreter of the environment.
        script: labels a file; see `teacher_tensornet.py`.
        weights: file or folder.
    """

    python: Path
    script: Path
    weights: Path

    def __call__(self, structures: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Energies (n,) in eV, and forces of each structure in eV/Angstrom."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.extxyz", Path(folder) / "out.npz"
            plain = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=True) for a in structures]
            write(source, plain, format="extxyz")
            command = [self.python, self.script, self.weights, source, target]
            subprocess.run(
                [str(part) for part in command],
                check=True,
                env=os.environ | {"MATGL_BACKEND": "PYG", "OMP_NUM_THREADS": "1"},
            )
            with np.load(target) as labels:
                ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
                return labels["energies"], np.split(labels["forces"], ends)


def label_sets(
    sets: Iterable[str], kinds: Sequence[str], teacher: Teacher, folder: Path, most: int | None
) -> None:
    """Label the training part of data sets; files that exist are left as they are.

    Args:
        sets: names in `SETS`.
        kinds: of displacement, one copy each.
        teacher: gives energies and forces.
        folder: for the files `<set>/<number>.extxyz`.
        most: parents of a set, chosen by hash; None for all.
    """
    for name in sets:
        (folder / name).mkdir(parents=True, exist_ok=True)
        parents = [parent for parent in SETS[name]() if parent.part == "train"]
        parents.sort(key=lambda parent: hashlib.md5(parent.sid.encode()).hexdigest())
        for number, some in enumerate(in_groups(parents[:most])):
            target = folder / name / f"{number:03d}.extxyz"
            if target.exists():
                continue
            by_sid = {parent.sid: parent for parent in some}
            labeled = label_anchors(some, kinds, teacher)
            for atoms in labeled:
                parent = by_sid[atoms.info["parent"]]
                names = ("surface", "adsorbate", "level")
                atoms.info |= {name: getattr(parent, name) for name in names}
            draft = target.with_suffix(".part")
            write(draft, labeled, format="extxyz")
            draft.rename(target)
            print(f"{name} {number}: {len(labeled)} copies", flush=True)


def in_groups(parents: Sequence[Parent]) -> Iterable[Sequence[Parent]]:
    """Parents in groups of `PARENTS`."""
    return (parents[k : k + PARENTS] for k in range(0, len(parents), PARENTS))
