"""Clean slabs of pure metals as ASE builds them, relaxed by the teacher in the smallest cell and
repeated.

A relaxed clean slab has no adsorption energy by definition, however large it is. Other sets hold
slabs of 12 to 18 atoms, where an error of some meV per atom is small; in a (3 x 3) cell it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bcc110, fcc100, fcc111, fcc211, hcp0001
from ase.constraints import FixAtoms
from ase.data import atomic_numbers, reference_states
from ase.io import read, write
from label import Teacher

FCC = ("Al", "Ni", "Cu", "Rh", "Pd", "Ag", "Ir", "Pt", "Au", "Pb")
BCC = ("V", "Cr", "Fe", "Nb", "Mo", "Ta", "W")
HCP = ("Co", "Ru", "Os", "Re", "Zn", "Cd", "Sc", "Ti", "Y", "Zr", "Hf")
STRAINS = (-0.01, 0.0, 0.015)  # of ASE's lattice constants, which are measured ones
LAYERS, FIXED = (3, 4), 2
VACUUM = 8.0  # Angstrom on each side
LARGE, SMALL = (3, 3, 1), (2, 2, 1)  # cells
WARM = 0.06  # Angstrom, standard deviation of free atoms


def small_slabs() -> Iterator[Atoms]:
    """Slabs in their smallest cells, with bottom layers fixed."""
    for metal in (*FCC, *BCC, *HCP):
        for strain in STRAINS:
            for layers in LAYERS:
                for facet, slab in _facets(metal, 1 + strain, layers):
                    heights = np.unique(np.round(slab.positions[:, 2], 2))
                    bottom = slab.positions[:, 2] < heights[len(heights) * FIXED // layers] - 0.1
                    slab.set_constraint(FixAtoms(mask=bottom))
                    slab.set_tags(np.where(bottom, 0, 1))
                    slab.pbc = True
                    surface = f"{metal}-{facet}"
                    slab.info = {"sid": f"{surface}-{layers}-{strain}", "surface": surface}
                    yield slab


def _facets(metal: str, scale: float, layers: int) -> Iterator[tuple[str, Atoms]]:
    """Slabs of a metal, by name of the facet."""
    state = reference_states[atomic_numbers[metal]]
    if metal in HCP:
        a = scale * state["a"]
        c = a * state["c/a"]
        yield "hcp0001", hcp0001(metal, (1, 1, layers), a=a, c=c, vacuum=VACUUM)
        return
    a = scale * state["a"]
    if metal in BCC:
        yield "bcc110", bcc110(metal, (1, 1, layers), a=a, vacuum=VACUUM)
        return
    for build in (fcc111, fcc100):
        yield build.__name__, build(metal, (1, 1, layers), a=a, vacuum=VACUUM)
    if layers == max(LAYERS):
        yield "fcc211", fcc211(metal, (3, 1, layers), a=a, vacuum=VACUUM)


@dataclass(frozen=True)
class Slab:
    """A slab in its smallest cell, unrelaxed and relaxed, and repeated in a small cell, still and warm."""

    start: Atoms
    end: Atoms
    still: Atoms
    warm: Atoms

    @classmethod
    def of(cls, start: Atoms, end: Atoms) -> Slab:
        """A slab from its smallest cells."""
        still = end.repeat(_cells(end, SMALL))
        warm, free = still.copy(), still.get_tags() > 0
        rng = np.random.default_rng(len(still) + int(1000 * still.cell[0, 0]))
        warm.positions[free] += rng.normal(scale=WARM, size=(int(free.sum()), 3))
        return cls(start, end, still, warm)

    def labeled(self, energies: np.ndarray, forces: Sequence[np.ndarray]) -> list[Atoms]:
        """Structures with labels: the unrelaxed and the relaxed slab in a large cell, and the warm one.

        Args:
            energies: (4,) eV of the four structures, of the teacher.
            forces: (n_atoms, 3) eV/Angstrom of each.
        """
        large = _cells(self.end, LARGE)
        n = int(np.prod(large))
        start, change = forces[0] - forces[1], energies[0] - energies[1]
        found = {
            "relaxed": (self.end.repeat(large), 0.0, np.zeros((n * len(self.end), 3))),
            "start": (self.start.repeat(large), n * change, np.tile(start, (n, 1))),
            "warmed": (self.warm, energies[3] - energies[2], forces[3] - forces[2]),
        }
        return [_labeled(self.end, kind, *labels) for kind, labels in found.items()]


def _cells(atoms: Atoms, cells: tuple[int, int, int]) -> tuple[int, int, int]:
    """How often to repeat a slab; a step is long already."""
    return (1, cells[1], 1) if "fcc211" in atoms.info["surface"] else cells


def _labeled(slab: Atoms, kind: str, atoms: Atoms, energy: float, forces: np.ndarray) -> Atoms:
    """A copy with labels."""
    copy, sid = atoms.copy(), slab.info["sid"]
    copy.info = {"sid": f"{sid}#{kind}", "parent": sid, "surface": slab.info["surface"]}
    copy.info |= {"kind": kind, "REF_energy": energy}
    copy.set_array("REF_forces", forces)
    return copy


def write_slabs(relaxed: Path, teacher: Teacher, target: Path) -> None:
    """Write labeled clean slabs.

    Args:
        relaxed: file of the relaxed `small_slabs`.
        teacher: labels.
        target: file that is written.
    """
    ends = {atoms.info["sid"]: atoms for atoms in read(relaxed, ":") if atoms.info["converged"]}
    slabs = [
        Slab.of(start, ends[start.info["sid"]])
        for start in small_slabs()
        if start.info["sid"] in ends
    ]
    energies, forces = teacher([one for s in slabs for one in (s.start, s.end, s.still, s.warm)])
    found = []
    for k, slab in enumerate(slabs):
        here = slice(4 * k, 4 * k + 4)
        found += slab.labeled(energies[here], forces[here])
    write(target, found, format="extxyz")
    print(f"{target.name}: {len(found)} structures", flush=True)
