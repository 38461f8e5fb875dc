"""Draw docs/relaxation.png: the example adslab before and after relaxation with the shipped model,
and its energy during the relaxation.

Usage:
    python workflows/readme-figure/run.py
"""

from __future__ import annotations

from pathlib import Path

import click
from ase import Atoms
from ase.io import read
from ase.optimize import BFGS
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure

from geocalc import GeoCalc

ROOT = Path(__file__).parents[2]


@click.command()
def main() -> None:
    """Relax, record, draw."""
    atoms = read(ROOT / "examples" / "data" / "adslab.traj")
    start = atoms.copy()
    atoms.calc = GeoCalc("regnn-wide")
    energies: list[float] = []
    forces: list[float] = []

    def watch() -> None:
        energies.append(atoms.get_potential_energy())
        forces.append(float(((atoms.get_forces() ** 2).sum(1) ** 0.5).max()))

    optimizer = BFGS(atoms, logfile=None)
    optimizer.attach(watch)
    optimizer.run(fmax=0.05, steps=300)

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    before, after, curve = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for axis, structure, title in ((before, start, "before"), (after, atoms, "after")):
        plot_atoms(centered(structure), axis, rotation="-78x,18y,0z", show_unit_cell=0)
        axis.set_title(f"CH on Ir(111), {title}", fontsize=10)
        axis.axis("off")
    curve.plot(energies, "o-", color="#2f6db3", ms=3)
    curve.set_xlabel("BFGS step")
    curve.set_ylabel("adsorption energy (eV)", color="#2f6db3")
    twin = curve.twinx()
    twin.semilogy(forces, "s-", color="#d9822b", ms=2.5, lw=1)
    twin.axhline(0.05, color="#8a8a8a", lw=0.8, ls="--")
    twin.set_ylabel("largest force (eV/Å)", color="#d9822b")
    curve.spines[["top"]].set_visible(False)
    twin.spines[["top"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "relaxation.png", dpi=120)


def centered(atoms: Atoms) -> Atoms:
    """The slab with the adsorbate in the middle of the cell."""
    shown = atoms.copy()
    shown.set_constraint()
    scaled = shown.get_scaled_positions(wrap=False)
    scaled[:, :2] += 0.5 - scaled[shown.get_tags() == 2][:, :2].mean(0)
    shown.set_scaled_positions(scaled)
    shown.wrap(pbc=(True, True, False))
    return shown


if __name__ == "__main__":
    main()
