"""Relaxed DFT structures that anchor the labels of a teacher, and which of them are kept for the
test.

A parent's energy is its adsorption energy in the convention of MamunHighT2019: relaxed clean slab
plus CH4, H2O, NH3, H2S and H2 gas. Sets in another convention differ by an amount for each atom of
an element, which the references of their level of theory take up.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import iread

from geocalc.train import Anchor

ADSORBATE = 2  # tag of its atoms
BEEF, PBE_D2, RPBE = "BEEF-vdW", "PBE-D2", "RPBE"
GBRV = "BEEF-vdW-GBRV"  # of MamunHighT2019, with its pseudopotentials and small slabs
# of surfaces that are held out whole, and of the structures of the others
SURFACE_SHARE, STRUCTURE_SHARE = 0.15, 0.10
# slabs of WWL-GPR without constraints: atoms this far up the slab were fixed (wide 0001 slabs: half)
FIXED_SHARE, FIXED_SHARE_0001 = 0.6, 0.5
# drawn so that an alloy, a step and open facets of other metals are among the surfaces of the test
SALT = "a"
# eV of an atom in CH4, H2O and H2, of the pseudopotentials of CatHub
CATHUB_REFERENCES = {"H": -16.471128, "C": -165.691801, "O": -463.327215}
G2 = [
    "N2",
    "NO",
    "O2",
    "CO2",
    "C2H4",
    "CH3OH",
    "HCOOH",
    "H2CO",
    "C2H2",
    "C2H6",
    "CH3CHO",
    "CH3CH2OH",
    "HCN",
    "CH3CN",
    "N2H4",
    "H2O2",
    "H3CNH2",
    "CH3SH",
    "C3H8",
    "C6H6",
    "HCOOCH3",
    "CH3OCH3",
    "CH3COOH",
    "H2CCO",
    "N2O",
    "SO2",
    "OH",
    "NH2",
    "CH3",
    "CH3O",
]


@dataclass(frozen=True, kw_only=True)
class Parent(Anchor):
    """A structure relaxed by DFT; its energy is an adsorption energy, see the module.

    Attributes:
        set: name of its data set.
        level: of theory.
        adsorbate, surface: names; a surface is a metal with its facet.
        part: train, surface (test on surfaces never seen) or structure (test on other structures).
    """

    set: str
    level: str
    adsorbate: str
    surface: str
    part: str


def read_file(path: str) -> Iterator[Atoms]:
    """Structures of a compressed extxyz file of the data sets."""
    text = gzip.decompress((Path(os.environ["GEOCALC_DATA"]) / path).read_bytes()).decode()
    return iread(io.StringIO(text), ":", format="extxyz")


def part_of(surface: str, sid: str) -> str:
    """The part that a structure belongs to, by hashes of its surface and of its name."""
    if share(SALT + surface) < SURFACE_SHARE:
        return "surface"
    return "structure" if share(sid) < STRUCTURE_SHARE else "train"


def share(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int(hashlib.md5(text.encode()).hexdigest()[:8], 16) / 16**8


def wwl_simple() -> Iterator[Parent]:
    """CO, OH, CHx, O, H, C on metals and alloys, several facets (BEEF-vdW); no forces."""
    for k, atoms in enumerate(
        read_file("wwlgpr-simple-adsorbates/simple_adsorbates_relaxed.extxyz.gz")
    ):
        info = atoms.info
        facet = "0001" if info["facet"] == 1 else str(info["facet"])  # ASE reads 0001 as a number
        _constrain(atoms, facet)
        yield _parent(
            atoms,
            sid=f"wwl-{k}-{info['sid']}",
            set="wwl-simple",
            energy=float(info["e_ads"]),
            forces=None,
            level=BEEF,
            adsorbate=str(info["adsorbate"]),
            surface=f"{info['surface']}({facet})",
        )


def wwl_complex() -> Iterator[Parent]:
    """C1 and C2 oxygenates (BEEF-vdW)."""
    for atoms in read_file("wwlgpr-complex-adsorbates/complex_adsorbates_relaxed.extxyz.gz"):
        info = atoms.info
        # an adsorbate is new on a metal, so groups are held out instead of surfaces
        yield _parent(
            atoms,
            sid=f"wwlc-{info['sid']}",
            set="wwl-complex",
            energy=float(info["e_ads"]),
            forces=atoms.calc.results["forces"],
            level=BEEF,
            adsorbate=str(info["adsorbate"]),
            surface=f"{info['metal']}({info['facet']})",
            part=part_of(str(info["group"]), str(info["sid"])),
        )


def cathub() -> Iterator[Parent]:
    """Relaxed intermediates of CO2 reduction (BEEF-vdW)."""
    for atoms in read_file("cathub-co2r-beef/adslab_and_neb.extxyz.gz"):
        info = atoms.info
        if info["kind"] != "relaxed" or info["pp"] != "USPP" or info.get("n_water", 0):
            continue
        yield _parent(
            atoms,
            sid=f"cathub-{info['db']}-{info['db_id']}",
            set="cathub",
            energy=float(info["e_ads"]),
            forces=atoms.calc.results["forces"],
            level=BEEF,
            adsorbate=str(info["adsorbate"]),
            surface=f"{info['metal']}({info['facet']})",
            part="structure" if share(str(info["group"])) < 0.2 else "train",
        )


def pure_metals() -> Iterator[Parent]:
    """Relaxed adsorbates on pure metals (BEEF-vdW-GBRV), with the names that a recipe splits them by."""
    for atoms in read_file("mamun-puremetal-adslab-relax/adslab_traj.extxyz.gz"):
        info = atoms.info
        if not (info["last"] and info["converged"]):
            continue
        yield _parent(
            atoms,
            sid=str(info["sid"]),
            set="mamun",
            energy=float(info["e_ads"]),
            forces=atoms.calc.results["forces"],
            level=GBRV,
            adsorbate=str(info["adsorbate"]),
            surface=str(info["metal"]),
            part="train",
        )


def clean_slabs() -> Iterator[Parent]:
    """Clean slabs of CatHub (BEEF-vdW), whose adsorption energy is 0 by definition."""
    for atoms in read_file("cathub-co2r-beef/refs_clean_slabs_gas.extxyz.gz"):
        info = atoms.info
        if info["kind"] != "clean_slab":
            continue
        yield _parent(
            atoms,
            sid=f"cathub-clean-{info['db']}-{info['db_id']}",
            set="cathub-clean",
            energy=0.0,
            forces=atoms.calc.results["forces"],
            level=BEEF,
            adsorbate="clean",
            surface=f"{info['metal']}({info.get('facet')})",
            part="train",
        )


def gas() -> Iterator[Parent]:
    """Gas molecules of CatHub (BEEF-vdW), which an adsorbate far from its slab is, and the gases of
    the convention, whose energy is 0.
    """
    for atoms in read_file("cathub-co2r-beef/refs_clean_slabs_gas.extxyz.gz"):
        info = atoms.info
        if info["kind"] == "gas":
            energy = float(atoms.calc.results["energy"])
            energy -= sum(CATHUB_REFERENCES[symbol] for symbol in atoms.symbols)
            yield _molecule(atoms, f"gas-{info['db']}-{info['db_id']}", energy)
    for name in ("NH3", "SH2"):
        yield _molecule(molecule(name, vacuum=8.0), f"gas-{name}", 0.0)


def gas_forces() -> Iterator[Parent]:
    """Gas molecules whose energy at the level is not known; for forces alone. Geometries of the G2
    set, whose bonds are those of DFT within a percent.
    """
    for name in G2:
        yield _molecule(molecule(name, vacuum=8.0), f"g2-{name}", 0.0)


def _molecule(atoms: Atoms, sid: str, energy: float) -> Parent:
    atoms = atoms.copy()
    atoms.set_tags([2] * len(atoms))
    return _parent(
        atoms,
        sid=sid,
        set="gas",
        energy=energy,
        forces=None,
        level=BEEF,
        adsorbate=str(atoms.symbols),
        surface="none",
        part="train",
    )


def gamenet() -> Iterator[Parent]:
    """Organic molecules on 14 metals (PBE-D2), energies against the gas molecule moved to the gases
    of the convention; fold 1 is the test.
    """
    gases = _gas_energies()
    for atoms in read_file("gamenet-fg-adsorption/fg_adslab_relaxed.extxyz.gz"):
        info = atoms.info
        molecule = atoms[atoms.get_tags() == 2]
        slab = gases.slabs[str(info["metal"])]
        energy = float(info["e_relaxed"]) - slab - gases.atoms_energy(molecule)
        yield _parent(
            atoms,
            sid=f"fg-{info['sid']}",
            set="gamenet",
            energy=energy,
            forces=None,
            level=PBE_D2,
            adsorbate=str(info["molecule"]),
            surface=str(info["metal"]),
            part="structure" if int(info["cv_fold"]) == 1 else "train",
        )


@dataclass(frozen=True)
class _Gases:
    """Energies of clean slabs, and of an atom of each element in its gas (eV)."""

    slabs: dict[str, float]
    per_atom: dict[str, float]

    def atoms_energy(self, molecule: Atoms) -> float:
        return sum(self.per_atom[symbol] for symbol in molecule.symbols)


def _gas_energies() -> _Gases:
    """References of GAME-Net; the gases of the convention that it lacks are fitted to its 203
    molecules, since only differences for each atom of an element are lost by that.
    """
    slabs, rows, values, elements = {}, [], [], ("C", "H", "O", "N", "S")
    for atoms in read_file("gamenet-fg-adsorption/fg_refs_gas_and_slabs_relaxed.extxyz.gz"):
        energy = float(atoms.info.get("e_relaxed", atoms.calc.results["energy"]))
        if str(atoms.info["kind"]) == "slab":
            slabs[str(atoms.info["metal"])] = energy
        else:
            rows.append([atoms.symbols.count(one) for one in elements])
            values.append(energy)
    fitted = np.linalg.lstsq(np.array(rows, float), np.array(values), rcond=None)[0]
    return _Gases(slabs, dict(zip(elements, map(float, fitted), strict=True)))


def hea() -> Iterator[Parent]:
    """CO, NO and H on a high-entropy alloy (RPBE)."""
    for atoms in read_file("hea-agaucupdpt-co-no-h/hea_cn_relaxed.extxyz.gz"):
        info = atoms.info
        clean = "e_ads" not in info
        yield _parent(
            atoms,
            sid=f"hea-{info['sid']}",
            set="hea",
            energy=0.0 if clean else float(info["e_ads"]),
            forces=atoms.calc.results["forces"],
            level=RPBE,
            adsorbate="clean" if clean else str(info["adsorbate"]),
            surface=f"slab {info['slab_id']}",
        )


SETS: dict[str, Callable[[], Iterator[Parent]]] = {
    "wwl-simple": wwl_simple,
    "wwl-complex": wwl_complex,
    "cathub": cathub,
    "cathub-clean": clean_slabs,
    "mamun": pure_metals,
    "gas": gas,
    "gas-forces": gas_forces,
    "gamenet": gamenet,
    "hea": hea,
}


def _parent(
    atoms: Atoms,
    *,
    sid: str,
    set: str,
    energy: float,
    forces: np.ndarray | None,
    level: str,
    adsorbate: str,
    surface: str,
    part: str | None = None,
) -> Parent:
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, tags=atoms.get_tags())
    plain.set_constraint(atoms.constraints)
    return Parent(
        sid=sid,
        set=set,
        atoms=plain,
        fixed=fixed_atoms(plain),
        energy=energy,
        forces=np.zeros((len(atoms), 3)) if forces is None else forces,
        level=level,
        adsorbate=adsorbate,
        surface=surface,
        part=part_of(surface, sid) if part is None else part,
    )


def fixed_atoms(atoms: Atoms) -> np.ndarray:
    """(n_atoms,) bool, atoms that a FixAtoms holds."""
    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
    return fixed


def _constrain(atoms: Atoms, facet: str) -> None:
    """Fix the lowest part of a slab that comes without constraints, and tag it as subsurface."""
    if atoms.constraints:
        return
    tags = atoms.get_tags()
    if (tags == 0).any():
        atoms.set_constraint(FixAtoms(np.flatnonzero(tags == 0)))
        return
    slab = np.flatnonzero(tags != 2)
    share = FIXED_SHARE_0001 if facet == "0001" else FIXED_SHARE
    order = slab[np.argsort(atoms.positions[slab, 2], kind="stable")]
    lowest = order[: round(share * len(slab))]
    atoms.set_constraint(FixAtoms(lowest))
    tags[lowest] = 0
    atoms.set_tags(tags)
