"""Keep labels that a second teacher agrees with.

Two teachers that have learned from different data are seldom wrong in the same way, so where their
anchored labels differ much neither is to be trusted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write
from parents import fixed_atoms

# largest difference between teachers: mean over free atoms (eV/Angstrom), and of energies (eV), each at
# least that and else a share of the label itself
FORCES, ENERGY, SHARE = 0.15, 0.15, 0.3


def keep_agreed(labels: Path, energies: np.ndarray, forces: np.ndarray, target: Path) -> None:
    """Write the copies of a file of labels that a second teacher agrees with.

    Args:
        labels: file of `geocalc.train.anchors`; the first copy of each parent is the anchor.
        energies: (n,) eV, of the second teacher for each.
        forces: (n_atoms of all, 3) eV/Angstrom.
        target: file to write.
    """
    copies = read(labels, ":")
    ends = np.cumsum([len(atoms) for atoms in copies])[:-1]
    groups: dict[str, list[tuple[Atoms, float, np.ndarray]]] = defaultdict(list)
    for atoms, energy, force in zip(copies, energies, np.split(forces, ends), strict=True):
        groups[str(atoms.info["parent"])].append((atoms, float(energy), force))
    kept = [atoms for group in groups.values() for atoms in _agreed(group)]
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, kept, format="extxyz")
    print(f"{labels.name}: {len(kept)} of {len(copies)} copies", flush=True)


def _agreed(group: Sequence[tuple[Atoms, float, np.ndarray]]) -> list[Atoms]:
    """The copies of one anchor on which two teachers agree."""
    anchor, energy_0, force_0 = group[0]
    if anchor.info["kind"] != "relaxed":  # no anchor, no comparison
        return []
    true_0, free = anchor.arrays["REF_forces"], ~fixed_atoms(anchor)
    kept = [anchor]
    for atoms, energy, force in group[1:]:
        moves = atoms.positions - anchor.positions
        label = true_0 + force - force_0
        change = energy - energy_0 + float(np.sum((force_0 - true_0) * moves))
        told = atoms.arrays["REF_forces"]
        told_change = float(atoms.info["REF_energy"] - anchor.info["REF_energy"])
        off = np.abs(label - told)[free].mean()
        if off > max(FORCES, SHARE * np.abs(told)[free].mean()):
            continue
        if abs(change - told_change) > max(ENERGY, SHARE * abs(told_change)):
            continue
        kept.append(atoms)
    return kept
