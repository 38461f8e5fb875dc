"""The newcomer's panel: what people try first, adsorbates on the (111) faces of eight metals.

Built with ase.build as its tutorials do: default lattice constants, (3 x 3) slabs of four layers with
the lower two fixed, molecules as they are in `ase.build.molecule`, set upright on a usual site at a
usual height.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.io import read
from parents import ADSORBATE, read_file, wwl_simple

import geocalc

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
    "C": Adsorbate("fcc", 1.0, None, False),
    "CH3": Adsorbate("fcc", 1.6, 0, True),
    "CO(fcc)": Adsorbate("fcc", 1.4, 1, True),  # the site that DFT energies are known of
}
# adsorbates whose energies the data sets have
WITH_DFT = ("CO", "O", "H", "OH", "CH3", "C")
BONDED = 1.25  # atoms nearer than this times the sum of their covalent radii are bonded
BOND_ERROR, ENERGY_ERROR = 0.03, 0.25  # relative, and eV; beyond is wrong


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
    adsorbate = _posed(formula_of(name), how)
    lowest = int(adsorbate.positions[:, 2].argmin())
    add_adsorbate(slab, adsorbate, how.height, how.site, offset=(1, 1), mol_index=lowest)
    slab.set_tags([2 if tag == 0 else 1 if tag <= 2 else 0 for tag in slab.get_tags()])
    slab.info = {"sid": f"{name}-{metal}", "adsorbate": name, "metal": metal}
    return slab


def formula_of(name: str) -> str:
    """An adsorbate without its site."""
    return name.partition("(")[0]


def _posed(name: str, how: Adsorbate) -> Atoms:
    """A gas molecule with one atom pointing down, or with its longest extent flat."""
    if len(name) == 1:
        return Atoms(name)
    if name == "CH3":  # bent away from the slab
        return Atoms("CH3", [(0, 0, 0), (1.03, 0, 0.36), (-0.52, 0.89, 0.36), (-0.52, -0.89, 0.36)])
    if name == "OOH":
        return Atoms("OOH", [(0.0, 0.0, 0.0), (0.85, 0.0, 1.05), (1.75, 0.0, 0.75)])
    adsorbate = molecule(name)
    if how.down is not None:
        rest = adsorbate.positions.mean(axis=0) - adsorbate.positions[how.down]
        adsorbate.rotate(rest, (0, 0, 1))
    elif name in ("O2", "CO2", "C2H4"):
        adsorbate.rotate(90, "y")
    return adsorbate


@dataclass(frozen=True)
class Judged:
    """What a model says of one structure of the panel.

    Attributes:
        sid: `<adsorbate>-<metal>`.
        status, domain: of the relaxation.
        energy: eV.
        site: metal atoms that the lowest atom of the adsorbate is bonded to.
        dft: eV, lowest adsorption energy on this face at sites like that, at BEEF-vdW, of the data
            set that is nearest; None where it is not known.
        bond_error: largest relative difference of a bond of the molecule from the teacher's; None
            where the molecule is not intact there, or is no molecule.
    """

    sid: str
    status: str
    domain: str | None
    energy: float | None
    site: int
    dft: float | None
    bond_error: float | None

    @property
    def wrong(self) -> bool:
        """Whether energy or bonds differ too much from the reference."""
        if self.energy is None or self.status == "EXPLODED":
            return True
        off = self.dft is not None and abs(self.energy - self.dft) > ENERGY_ERROR
        return bool(off) or (self.bond_error is not None and self.bond_error > BOND_ERROR)


def measure_panel(model: str, teacher: Path, target: Path) -> None:
    """Relax the panel and write `target`, one line of JSON for each structure.

    Args:
        model: name or folder.
        teacher: the panel as a teacher has relaxed it.
        target: file.
    """
    relaxed = {str(atoms.info["sid"]): atoms for atoms in read(teacher, ":")}
    known, judged = dft_energies(), []
    for start, result in zip(panel(), geocalc.relax(panel(), model), strict=True):
        sid, record = str(start.info["sid"]), result.record
        name, metal = sid.split("-")
        site = coordination(result.atoms)
        judged.append(
            Judged(
                sid=sid,
                site=site,
                status=record.status,
                domain=record.domain,
                energy=record.energy,
                dft=nearest(known.get((formula_of(name), metal, site), ()), record.energy),
                bond_error=bond_error(start, result.atoms, relaxed.get(sid)),
            )
        )
    target.write_text(
        "".join(json.dumps(asdict(one) | {"wrong": one.wrong}) + "\n" for one in judged)
    )
    green = [one for one in judged if one.domain == "green"]
    print(
        f"{len(judged)} structures, {sum(one.status == 'EXPLODED' for one in judged)} exploded,"
        f" {len(green)} green, {sum(one.wrong for one in judged)} wrong, of which green"
        f" {sum(one.wrong for one in green)}"
    )
    for one in judged:
        if one.wrong:
            print(one)


def bond_error(start: Atoms, end: Atoms, teacher: Atoms | None) -> float | None:
    """Largest relative difference of a bond of the adsorbate from the teacher's; None where the
    teacher has broken one, or there is none.
    """
    if teacher is None or len(end) != len(start):
        return None
    guest = [atom.index for atom in start if atom.tag == 2]
    found = []
    for place, i in enumerate(guest):
        for j in guest[:place]:
            longest = BONDED * covalent_radii[start.numbers[[i, j]]].sum()
            if start.get_distance(i, j, mic=True) > longest:
                continue
            wanted = teacher.get_distance(i, j, mic=True)
            if wanted > longest:
                return None
            found.append(float(abs(end.get_distance(i, j, mic=True) / wanted - 1)))
    return max(found, default=None)


def coordination(atoms: Atoms) -> int:
    """Atoms of the slab that the lowest atom of the adsorbate is bonded to, at most 3."""
    guest = np.flatnonzero(atoms.get_tags() == ADSORBATE)
    slab = np.flatnonzero(atoms.get_tags() != ADSORBATE)
    lowest = guest[atoms.positions[guest, 2].argmin()]
    lengths = BONDED * (covalent_radii[atoms.numbers[lowest]] + covalent_radii[atoms.numbers[slab]])
    return min(3, int((atoms.get_distances(lowest, slab, mic=True) < lengths).sum()))


def dft_energies() -> Mapping[tuple[str, str, int], Sequence[float]]:
    """Lowest adsorption energy (eV, BEEF-vdW) of adsorbate, metal and coordination on a close-packed
    face, of each data set that has it: WWL-GPR and MamunHighT2019, which differ by up to 0.4 eV.
    """
    lowest: dict[str, dict[tuple[str, str, int], float]] = defaultdict(dict)
    for parent in wwl_simple():
        metal, _, facet = parent.surface.partition("(")
        if facet == "111)":
            key = (parent.adsorbate, metal, coordination(parent.atoms))
            lowest["wwl"][key] = min(parent.energy, lowest["wwl"].get(key, parent.energy))
    for atoms in read_file("mamun-puremetal-adslab-relax/adslab_traj.extxyz.gz"):
        if atoms.info["last"]:
            key = (str(atoms.info["adsorbate"]), str(atoms.info["metal"]), coordination(atoms))
            energy = float(atoms.info["e_ads"])
            lowest["mamun"][key] = min(energy, lowest["mamun"].get(key, energy))
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for known in lowest.values():
        for key, energy in known.items():
            if key[0] in WITH_DFT:
                found[key].append(energy)
    return found


def nearest(known: Sequence[float], energy: float | None) -> float | None:
    """The one of some energies that is nearest to another; None where there is none."""
    return min(known, key=lambda one: abs(one - (energy or 0.0)), default=None)
