"""Model calls of relaxations of atoms and cells together, on EMT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from geocalc import from_atoms
from geocalc.core import concatenate
from geocalc.optim import OPTIMIZERS
from geocalc.potentials import AsePotential
from geocalc.relaxation import CellFilter, relax_systems

FMAX, STEPS = 0.02, 300
IN_PLANE = (True, True, False, False, False, True)
WAYS = {
    "bulk": CellFilter(),
    "bulk, the deformation itself (unit)": CellFilter(kind="unit"),
    "bulk, volume alone": CellFilter(hydrostatic=True),
    "bulk, shape alone": CellFilter(constant_volume=True),
    "bulk at 5 GPa": CellFilter(pressure=0.0312),
    "adslabs, in their plane": CellFilter(mask=IN_PLANE),
}


@dataclass(frozen=True)
class Calls:
    """One line: model calls of one optimizer.

    Attributes:
        what: structures, and which strains are free.
        optimizer: its name.
        calls_mean, calls_most: for each structure.
        converged: share.
        energy: eV, sum of the ends.
    """

    what: str
    optimizer: str
    calls_mean: float
    calls_most: int
    converged: float
    energy: float


def crystals() -> Iterator[Atoms]:
    """Cells of 4, 16 and 32 atoms of four metals and alloys of them with Ni, strained and rattled."""
    rng = np.random.default_rng(0)
    for metal in ("Cu", "Pt", "Al", "Au"):
        for repeat in ((1, 1, 1), (2, 2, 2), (2, 2, 1)):
            atoms = bulk(metal, cubic=True).repeat(repeat)
            if repeat == (2, 2, 1):
                atoms.symbols[[0, 3]] = "Ni"
            strain = np.eye(3) + rng.normal(0, 0.03, (3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            atoms.rattle(0.05, rng=rng)
            yield atoms


def adslabs() -> Iterator[Atoms]:
    """Adsorbates on three layers, of which the lowest keeps its fractional places."""
    rng = np.random.default_rng(1)
    for metal, adsorbate in (("Cu", "O"), ("Pt", "C"), ("Ag", "N")):
        atoms = fcc111(metal, (2, 2, 3), vacuum=8.0, periodic=True)
        add_adsorbate(atoms, adsorbate, 1.2, "fcc")
        atoms.set_constraint(FixAtoms([atom.index for atom in atoms if atom.tag == 3]))
        atoms.rattle(0.05, rng=rng)
        yield atoms


def measure() -> list[Calls]:
    """Both optimizers on each set."""
    rows, potential = [], AsePotential(calculator=EMT(), stress=True)
    for what, freedom in WAYS.items():
        given = crystals() if what.startswith("bulk") else adslabs()
        systems = concatenate([from_atoms(atoms, use_tags=False) for atoms in given])
        for name in ("bfgs", "quasi-newton"):
            ends = relax_systems(
                systems, potential, OPTIMIZERS[name](), FMAX, STEPS, freedom=freedom
            )
            calls = [end.n_evaluations for end in ends]
            converged = float(np.mean([end.converged for end in ends]))
            energy = sum(end.energy for end in ends)
            rows.append(Calls(what, name, float(np.mean(calls)), max(calls), converged, energy))
            print(rows[-1], flush=True)
    return rows
