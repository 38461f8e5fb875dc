"""Anchored labels: energies and forces around relaxed structures, from a teacher.

Around a geometry x0 relaxed by DFT, with energy E0 and forces F0, of a teacher T:

    F(x) = F0 + F_T(x) - F_T(x0)
    E(x) = E0 - F0.(x - x0) + E_T(x) - E_T(x0) + F_T(x0).(x - x0)

The anchor takes away what two functionals differ in most: lattice constants, bond lengths at
equilibrium, and the zero of energies. What a teacher knows of stiffness stays.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write

from geocalc.data.displacements import DISPLACEMENTS, displaced_copy
from geocalc.data.prepare import stamp_of
from geocalc.data.read import locate, relaxations
from geocalc.data.settings import DataSource
from geocalc.errors import InputError
from geocalc.potentials.card import Task
from geocalc.potentials.load import LoadedModel, load_model
from geocalc.structures.convert import from_atoms
from geocalc.structures.tags import ADSORBATE

# energies (n,) in eV, and forces (n_atoms, 3) in eV/Angstrom of each structure
Teacher = Callable[[Sequence[Atoms]], tuple[np.ndarray, list[np.ndarray]]]
BATCH = 16
PARENT = "parent"  # info key of the anchor of a copy
MOST_FORCE, MOST_ENERGY = 12.0, 5.0  # eV/Angstrom, and eV above E0; copies beyond are left out


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A structure relaxed by DFT.

    Attributes:
        sid: name.
        atoms: with tags of the OC20 convention.
        fixed: (n_atoms,) bool, atoms that stay.
        energy: eV.
        forces: (n_atoms, 3) eV/Angstrom by DFT, zero where they are not known.
    """

    sid: str
    atoms: Atoms
    fixed: np.ndarray
    energy: float
    forces: np.ndarray


@dataclass(frozen=True)
class Copy:
    """A displaced copy of an anchor, or with the kind `relaxed` the anchor itself."""

    anchor: Anchor
    kind: str
    atoms: Atoms


def copies_of(anchor: Anchor, kinds: Sequence[str]) -> list[Copy]:
    """The anchor itself and a displaced copy of each kind where a sound one is found; the same in
    every run.
    """
    seed = int(hashlib.md5(anchor.sid.encode()).hexdigest()[:8], 16)
    rng = np.random.default_rng(seed)
    clean = not (anchor.atoms.get_tags() == ADSORBATE).any()
    found = [Copy(anchor, "relaxed", anchor.atoms)]
    for kind in kinds:
        if clean and kind != "warmed":
            continue
        atoms = displaced_copy(anchor.atoms, kind, anchor.fixed, rng)
        if atoms is not None:
            found.append(Copy(anchor, kind, atoms))
    return found


def anchored(
    copies: Sequence[Copy], energies: np.ndarray, forces: Sequence[np.ndarray]
) -> list[Atoms]:
    """Label the copies of one anchor.

    Args:
        copies: of which the first is the anchor itself.
        energies: (n,) eV, of the teacher.
        forces: (n_atoms, 3) eV/Angstrom of each, of the teacher.
    Returns:
        Copies with `REF_energy` (eV) and `REF_forces` (eV/Angstrom), and their `sid`, `parent` and
        `kind`; those with too large a force or energy are left out.
    """
    anchor, labeled = copies[0].anchor, []
    for number, (copy, energy, force) in enumerate(zip(copies, energies, forces, strict=True)):
        moves = copy.atoms.positions - anchor.atoms.positions
        change = energy - energies[0] + float(np.sum((forces[0] - anchor.forces) * moves))
        label = anchor.forces + force - forces[0]
        if np.linalg.norm(label, axis=1).max() > MOST_FORCE or change > MOST_ENERGY:
            continue
        atoms = copy.atoms.copy()
        atoms.info = {
            "sid": f"{anchor.sid}#{number}",
            PARENT: anchor.sid,
            "kind": copy.kind,
            "REF_energy": anchor.energy + change,
        }
        atoms.set_array("REF_forces", label)
        labeled.append(atoms)
    return labeled


def label_anchors(anchors: Sequence[Anchor], kinds: Sequence[str], teacher: Teacher) -> list[Atoms]:
    """Label the copies of some anchors, all in one call of the teacher; see `anchored`."""
    groups = [copies_of(anchor, kinds) for anchor in anchors]
    energies, forces = teacher([copy.atoms for group in groups for copy in group])
    labeled, start = [], 0
    for group in groups:
        here = slice(start, start + len(group))
        labeled += anchored(group, energies[here], forces[here])
        start += len(group)
    return labeled


def labels_of(data: Path, teacher: str, folder: Path) -> Path:
    """Return the file of labeled copies of the relaxed structures of a file, to train on; it is
    written unless it is there from the same data and teacher.

    Args:
        data: file or folder of structures with energies; the last of each relaxation is taken to be
            relaxed, and forces are not read.
        teacher: model of energies and forces, by name or folder.
        folder: of the file.
    Raises:
        InputError: the data cannot be read or have no energies, or the model has no forces.
        ModelNotFoundError, ModelFileError: see `geocalc.load_model`.
    """
    loaded = load_model(teacher, device="cpu")
    if loaded.card.task is not Task.S2EF:
        raise _no_teacher(loaded)
    text = json.dumps([loaded.hash, stamp_of(locate(data))])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    target = folder / f"labels-{key}.extxyz"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        told = _tell(loaded)
        labeled: list[Atoms] = []
        for anchor in _anchors_of(data):
            labeled += label_anchors([anchor], list(DISPLACEMENTS), told)
        draft = target.with_suffix(".part")
        write(draft, labeled, format="extxyz")
        draft.rename(target)
    return target


def _no_teacher(loaded: LoadedModel) -> InputError:
    """The error for a model without energies and forces of unrelaxed structures."""
    return InputError(
        f"{loaded.card.name} cannot be a teacher, since it gives no energies and forces of"
        " unrelaxed structures; choose a model of task s2ef with forces"
    )


def _tell(loaded: LoadedModel) -> Teacher:
    """A model as a teacher."""

    def tell(structures: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        energies, forces = [], []
        for start in range(0, len(structures), BATCH):
            some = structures[start : start + BATCH]
            told = loaded.potential(from_atoms(some))
            if told.forces is None:
                raise _no_teacher(loaded)
            energies.append(told.energy.cpu().numpy())
            ends = np.cumsum([len(atoms) for atoms in some])[:-1]
            forces += np.split(told.forces.cpu().numpy(), ends)
        return np.concatenate(energies), forces

    return tell


def _anchors_of(data: Path) -> Iterator[Anchor]:
    """The last structure of each relaxation of a file."""
    dropped: Counter[str] = Counter()
    for name, images in relaxations(DataSource(path=data), None, dropped, needs_forces=False):
        if not images:
            continue
        last = images[-1]
        fixed = np.asarray(last.fixed.all(axis=1))
        atoms = Atoms(
            last.atoms.numbers,
            last.atoms.positions,
            cell=last.atoms.cell,
            pbc=last.atoms.pbc,
            tags=last.tags,
        )
        atoms.set_constraint(FixAtoms(np.flatnonzero(fixed)))
        still = np.zeros((len(atoms), 3))
        yield Anchor(sid=name, atoms=atoms, fixed=fixed, energy=last.energy, forces=still)
