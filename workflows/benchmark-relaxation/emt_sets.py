"""Build the EMT sets: small adsorbates on stepped and flat surfaces of seven metals, from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111, fcc211, molecule
from ase.constraints import FixAtoms

METALS = ("Cu", "Ni", "Pt", "Pd", "Ag", "Au", "Al")
# Angstrom above a hollow; bridges and tops are higher
HEIGHTS = {"O": 1.3, "N": 1.2, "C": 1.3, "H": 1.1, "CO": 1.5}
SITES = {"hollow": 0.0, "bridge": 0.2, "ontop": 0.5}
SIZES = ((2, 2, 3), (3, 3, 4), (2, 3, 4), (3, 2, 3))
FIXED = 0.45  # share of the slab's height, from below, that is held


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How far from a minimum the structures of a set begin.

    Attributes:
        rattle: Angstrom, standard deviation of every coordinate that is not fixed.
        lift: Angstrom that adsorbates are put higher than usual.
        sites: to choose from.
        facets, sizes, adsorbates: likewise.
    """

    rattle: float = 0.1
    lift: float = 0.0
    sites: tuple[str, ...] = tuple(SITES)
    facets: tuple[str, ...] = ("111", "100", "211")
    sizes: tuple[tuple[int, int, int], ...] = SIZES
    adsorbates: tuple[str, ...] = tuple(HEIGHTS)


KINDS = {
    "plain": Kind(),
    "hard": Kind(rattle=0.2, lift=0.3),
    # what faenet-sfa was trained for
    "model": Kind(facets=("111",), adsorbates=("O", "N", "C", "H")),
}


def emt_set(n: int, seed: int = 0, kind: Kind = KINDS["plain"]) -> list[Atoms]:
    """`n` adslabs drawn with `seed`; `info["sid"]` names them."""
    rng = np.random.default_rng(seed)
    return [_adslab(rng, k, kind) for k in range(n)]


def _adslab(rng: np.random.Generator, number: int, kind: Kind) -> Atoms:
    metal, adsorbate = (
        METALS[rng.integers(len(METALS))],
        kind.adsorbates[rng.integers(len(kind.adsorbates))],
    )
    facet, size = (
        kind.facets[rng.integers(len(kind.facets))],
        kind.sizes[rng.integers(len(kind.sizes))],
    )
    site = kind.sites[rng.integers(len(kind.sites))]
    guest = molecule("CO") if adsorbate == "CO" else Atoms(adsorbate)
    anchor = 1 if adsorbate == "CO" else 0  # carbon points down
    height = HEIGHTS[adsorbate] + kind.lift
    if facet == "211":
        atoms = fcc211(metal, (3, *size[1:]), vacuum=8.0)
        edge = atoms.positions[atoms.positions[:, 2].argmax(), :2]
        add_adsorbate(atoms, guest, height + SITES["ontop"], position=tuple(edge), mol_index=anchor)
    else:
        atoms = (fcc111 if facet == "111" else fcc100)(metal, size, vacuum=8.0)
        name = "fcc" if (facet, site) == ("111", "hollow") else site
        add_adsorbate(atoms, guest, height + SITES[site], name, mol_index=anchor)
    slab = atoms.positions[: len(atoms) - len(guest), 2]
    atoms.set_constraint(FixAtoms(np.flatnonzero(slab < slab.min() + FIXED * np.ptp(slab))))
    atoms.rattle(kind.rattle, rng=rng)
    atoms.info["sid"] = f"{metal}-{facet}-{adsorbate}-{site}-{number}"
    return atoms
