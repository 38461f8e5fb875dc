"""Write examples/data/ from the data sets in $GEOCALC_DATA.

Usage:
    GEOCALC_DATA=... python workflows/example-structures/run.py

Sources and licenses are in examples/data/README.md.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.io import write

from geocalc.structures import Source, read_structures

SETS = {
    "WWL-GPR": "wwlgpr-simple-adsorbates",
    "GAME-Net": "gamenet-fg-adsorption/fg_adslab_init.extxyz.gz",
    "OC20": "oc20-trajectories-sample/oc20_traj.extxyz.gz",
}
CHOSEN = (
    ("WWL-GPR", "CH_Ir_111_hcp"),
    ("WWL-GPR", "H_Pd_111_fcc"),
    ("WWL-GPR", "OH_Ag_111_bridge"),
    ("WWL-GPR", "O_Ru_111_fcc"),
    ("WWL-GPR", "C_Cu_111_hcp"),
    ("WWL-GPR", "OH_Pt_111_bridge"),
    # outside what the models for adsorbates on pure metals have learned
    ("WWL-GPR", "O_Rh_111_fcc"),
    ("WWL-GPR", "CH_Ni_111_hcp"),
    ("GAME-Net", "pt-2612-a"),
    ("OC20", "random1000169"),
)
# Angstrom; takes a relaxed adsorbate off its site, so that there is something to relax
LIFT = np.array([0.15, 0.10, 0.30])


def find(name: str, path: Path) -> Atoms:
    """The first structure of that sid in a data set."""
    for item in read_structures(path):
        if isinstance(item, Source) and item.sid == name:
            return item.atoms
    raise SystemExit(f"{name} is not in {path}")


def prepared(origin: str, name: str, root: Path) -> Atoms:
    """The structure without labels, its adsorbate lifted if it came relaxed."""
    path = root / SETS[origin]
    source = find(name, path)
    atoms = Atoms(
        source.numbers, source.positions, cell=source.cell, pbc=source.pbc, tags=source.get_tags()
    )
    atoms.set_constraint(source.constraints)
    atoms.info = {"sid": name, "source": origin}
    if origin == "WWL-GPR":
        atoms.positions[atoms.get_tags() == 2] += LIFT
        atoms.info["e_ads_dft"] = round(float(source.info["e_ads"]), 3)
    return atoms


@click.command()
def main() -> None:
    """Write adslabs.extxyz and adslab.traj."""
    root = Path(os.environ["GEOCALC_DATA"])
    target = Path(__file__).parents[2] / "examples" / "data"
    structures = [prepared(origin, name, root) for origin, name in CHOSEN]
    write(target / "adslabs.extxyz", structures, format="extxyz")
    write(target / "adslab.traj", structures[0])


if __name__ == "__main__":
    main()
