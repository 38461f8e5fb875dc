"""Label displaced copies of relaxed DFT structures with a teacher, anchored at the DFT geometry.

Around a DFT-relaxed geometry x0 with energy E0 and forces F0, of a teacher T:

    F(x) = F0 + F_T(x) - F_T(x0)
    E(x) = E0 - F0.(x - x0) + E_T(x) - E_T(x0) + F_T(x0).(x - x0)

The anchor takes away what two functionals differ in most, lattice constants and bond lengths at
equilibrium, and the reference energies of gases, which teachers have wrong.

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
from displacements import displaced
from parents import SETS, Parent, fixed_atoms

PARENTS = 40  # in a file
MOST_FORCE, MOST_ENERGY = 12.0, 5.0  # eV/Angstrom and eV above E0; copies beyond are left out


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


@dataclass(frozen=True)
class Copy:
    """A displaced copy of a parent."""

    parent: Parent
    kind: str
    atoms: Atoms


def copies_of(parent: Parent, kinds: Sequence[str]) -> list[Copy]:
    """The parent itself and its displaced copies; the same for every run."""
    seed = int(hashlib.md5(parent.sid.encode()).hexdigest()[:8], 16)
    rng, fixed = np.random.default_rng(seed), fixed_atoms(parent.atoms)
    found = [Copy(parent, "relaxed", parent.atoms)]
    for kind in kinds:
        if parent.adsorbate == "clean" and kind != "warmed":
            continue
        atoms = displaced(parent.atoms, kind, fixed, rng)
        if atoms is not None:
            found.append(Copy(parent, kind, atoms))
    return found


def anchored(
    copies: Sequence[Copy], energies: np.ndarray, forces: Sequence[np.ndarray]
) -> list[Atoms]:
    """Label the copies of one parent, of which the first is the parent itself."""
    parent, labeled = copies[0].parent, []
    for number, (copy, energy, force) in enumerate(zip(copies, energies, forces, strict=True)):
        moves = copy.atoms.positions - parent.atoms.positions
        change = energy - energies[0] + float(np.sum((forces[0] - parent.forces) * moves))
        label = parent.forces + force - forces[0]
        if np.linalg.norm(label, axis=1).max() > MOST_FORCE or change > MOST_ENERGY:
            continue
        atoms = copy.atoms.copy()
        atoms.info = {
            "sid": f"{parent.sid}#{number}",
            "parent": parent.sid,
            "surface": parent.surface,
            "adsorbate": parent.adsorbate,
            "level": parent.level,
            "kind": copy.kind,
            "REF_energy": parent.energy + change,
        }
        atoms.set_array("REF_forces", label)
        labeled.append(atoms)
    return labeled


def label(
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
            groups = [copies_of(parent, kinds) for parent in some]
            energies, forces = teacher([copy.atoms for group in groups for copy in group])
            labeled, start = [], 0
            for group in groups:
                here = slice(start, start + len(group))
                labeled += anchored(group, energies[here], forces[here])
                start += len(group)
            draft = target.with_suffix(".part")
            write(draft, labeled, format="extxyz")
            draft.rename(target)
            print(f"{name} {number}: {len(labeled)} of {start} copies", flush=True)


def in_groups(parents: Sequence[Parent]) -> Iterable[Sequence[Parent]]:
    """Parents in groups of `PARENTS`."""
    return (parents[k : k + PARENTS] for k in range(0, len(parents), PARENTS))
