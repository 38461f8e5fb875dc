"""Lesson 2: relax several adslabs at once and read their records.

From a shell: geocalc relax data/adslabs.extxyz
"""

from pathlib import Path

from ase.geometry import find_mic
from ase.io import read

import geocalc

DATA = Path(__file__).parent / "data"

# Four of the example structures, each with a published DFT adsorption energy of its relaxed
# geometry under `e_ads_dft`.
structures = read(DATA / "adslabs.extxyz", ":4")

results = geocalc.relax(structures, "regnn-wide", fmax=0.05)

# One result for each structure, in order, whatever happened to it: a structure that failed has the
# reason in `record.error`.
print(
    f"{'structure':<20} {'status':<10} {'steps':>5} {'moved (Å)':>9} {'energy (eV)':>11}"
    f" {'DFT (eV)':>8}"
)
for start, result in zip(structures, results, strict=True):
    record = result.record
    if record.error is not None:
        print(f"{record.sid:<20} {record.error}")
        continue
    # The adsorbate may have crossed the edge of the cell, so distances are those to the nearest
    # image.
    moved = find_mic(result.atoms.positions - start.positions, start.cell, start.pbc)[1].max()
    dft = start.info["e_ads_dft"]
    print(
        f"{record.sid:<20} {record.status:<10} {record.n_steps:>5} {moved:>9.2f}"
        f" {record.energy:>11.3f} {dft:>8.3f}"
    )

# Fixed atoms have not moved at all.
still = all(
    (
        result.atoms.positions[atoms.constraints[0].index]
        == atoms.positions[atoms.constraints[0].index]
    ).all()
    for atoms, result in zip(structures, results, strict=True)
)
print(f"fixed atoms are where they were: {still}")
