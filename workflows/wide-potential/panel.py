"""The newcomer's panel: what people try first, fifteen adsorbates on the (111) faces of nine metals.

Built with ase.build as its tutorials do: default lattice constants, (3 x 3) slabs of four layers with
the lower two fixed, molecules as they are in `ase.build.molecule`, set upright on a usual site at a
usual height.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms

METALS = ("Pt", "Cu", "Ni", "Pd", "Au", "Ag", "Rh", "Ir")


@dataclass(frozen=True)
class Adsorbate:
    """How an adsorbate is put on a slab.

    Attributes:
        site: fcc, ontop or bridge.
        height: of the lowest atom above the topmost layer, Angstrom.
        down: index of the atom that points to the slab; None leaves the molecule flat.
        intact: whether it is a molecule that stays one.
    """

    site: str
    height: float
    down: int | None
    intact: bool


ADSORBATES: dict[str, Adsorbate] = {
    "CO": Adsorbate("ontop", 1.9, 1, True),
    "OH": Adsorbate("fcc", 1.5, 0, True),
    "H2O": Adsorbate("ontop", 2.4, None, True),
    "NH3": Adsorbate("ontop", 2.1, 0, True),
    "CH4": Adsorbate("ontop", 3.4, None, True),
    "NO": Adsorbate("fcc", 1.4, 0, True),
    "O": Adsorbate("fcc", 1.2, None, False),
    "H": Adsorbate("fcc", 1.0, None, False),
    "C2H4": Adsorbate("bridge", 2.1, None, True),
    "CH3OH": Adsorbate("ontop", 2.4, None, True),
    "HCOOH": Adsorbate("ontop", 2.4, None, True),
    "O2": Adsorbate("bridge", 2.0, None, True),
    "N2": Adsorbate("ontop", 2.0, 0, True),
    "CO2": Adsorbate("ontop", 3.1, None, True),
    "OOH": Adsorbate("ontop", 2.0, None, True),
}


def panel() -> Iterator[Atoms]:
    """Starting structures; `info["sid"]` is `<adsorbate>-<metal>`."""
    for metal in METALS:
        for name in ADSORBATES:
            yield start_of(name, metal)


def start_of(name: str, metal: str) -> Atoms:
    """An adsorbate set on a slab."""
    how = ADSORBATES[name]
    slab = fcc111(metal, (3, 3, 4), vacuum=8.0)
    slab.pbc = True
    slab.set_constraint(FixAtoms(mask=[tag > 2 for tag in slab.get_tags()]))
    adsorbate = _posed(name, how)
    lowest = int(adsorbate.positions[:, 2].argmin())
    add_adsorbate(slab, adsorbate, how.height, how.site, offset=(1, 1), mol_index=lowest)
    slab.set_tags([2 if tag == 0 else 1 if tag <= 2 else 0 for tag in slab.get_tags()])
    slab.info = {"sid": f"{name}-{metal}", "adsorbate": name, "metal": metal}
    return slab


def _posed(name: str, how: Adsorbate) -> Atoms:
    """A gas molecule with one atom pointing down, or with its longest extent flat."""
    if len(name) == 1:
        return Atoms(name)
    if name == "OOH":
        return Atoms("OOH", [(0.0, 0.0, 0.0), (0.85, 0.0, 1.05), (1.75, 0.0, 0.75)])
    adsorbate = molecule(name)
    if how.down is not None:
        rest = adsorbate.positions.mean(axis=0) - adsorbate.positions[how.down]
        adsorbate.rotate(rest, (0, 0, 1))
    elif name in ("O2", "CO2", "C2H4"):
        adsorbate.rotate(90, "y")
    return adsorbate
