"""Lesson 1: the energy and the forces of one structure, as with any ASE calculator."""

from pathlib import Path

import numpy as np
from ase.io import read

from geocalc import GeoCalc

DATA = Path(__file__).parent / "data"

# CH on Ir(111), moved off its site. Tags say which atoms lie below the surface (0), on it (1) and
# adsorb (2); the lower layers are fixed.
atoms = read(DATA / "adslab.traj")
print(
    f"{atoms.symbols}, of which adsorbate: {atoms.symbols[atoms.get_tags() == 2]}, fixed:"
    f" {len(atoms.constraints[0].index)} atoms"
)

# A model is loaded by name; `geocalc models` lists those that are installed. From here on
# everything is ASE.
atoms.calc = GeoCalc("regnn-wide")
energy = atoms.get_potential_energy()
forces = atoms.get_forces()  # zero on fixed atoms; apply_constraint=False shows theirs too

# An energy means nothing without its zero. The card of the model says which one it is.
card = atoms.calc.model.card
print(f"{energy:.3f} eV, an {card.energy_kind.value} energy ({card.level_of_theory})")
print(f"its zero: {card.reference_text}")
print(f"largest force on a free atom: {np.linalg.norm(forces, axis=1).max():.2f} eV/Å")

# The forces are the gradient of the energy, so a small step along them lowers the energy by |F|^2
# times the step.
step = 1e-3 * forces
moved = atoms.copy()
moved.calc = atoms.calc
moved.positions += step
change = moved.get_potential_energy() - energy
print(
    f"a step of 0.001 along the forces: expected {-np.sum(forces * step):.5f} eV, found"
    f" {change:.5f} eV"
)
