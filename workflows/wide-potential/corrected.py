"""Adsorption energies of the teacher's wide set, moved to the default level.

Sites of one adsorbate on one metal differ by the same energies for the teacher and for DFT, within
0.1 eV; what each adsorbate and metal costs does not agree. A correction for both is fitted to relaxed
structures of DFT, and added to the teacher's energies of the same adsorbates on these metals, which
sit on other facets and alloys too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.io import iread, write
from label import Teacher
from parents import ADSORBATE, SETS, Parent
from scipy.sparse.csgraph import connected_components

KNOWN = ("wwl-simple", "wwl-complex", "cathub")  # sets of DFT with the correction's adsorbates
CLEAN = "clean"  # adsorbate of slabs without one
ELEMENTS = ("H", "C", "N", "O", "S")
BONDED = 1.3  # times the sum of covalent radii
# strength that pulls a correction towards zero: that of an element, an adsorbate, a metal, and an
# adsorbate on a metal, in numbers of structures
PULLS = (1e-4, 0.3, 1.0, 1.0)
FEWEST = 12  # structures of an adsorbate and of a metal in DFT; rarer ones are left out
MOST_ERROR = 0.13  # eV, mean absolute error of a fit; adsorbates beyond, such as C, are left out


@dataclass(frozen=True)
class Site:
    """An adsorbate on metals.

    Attributes:
        adsorbate: name.
        symbols: of its atoms.
        metals: share of each metal among the atoms that it touches.
    """

    adsorbate: str
    symbols: Sequence[str]
    metals: dict[str, float]

    @classmethod
    def of(cls, atoms: Atoms, adsorbate: str) -> Site | None:
        """The site of a structure; None if the adsorbate is in pieces or touches nothing."""
        chosen = atoms.get_tags() == ADSORBATE
        radii = covalent_radii[atoms.numbers]
        near = atoms.get_all_distances(mic=True) < BONDED * np.add.outer(radii, radii)
        touching = near[np.ix_(chosen, ~chosen)].sum(0)
        pieces, _ = connected_components(near[np.ix_(chosen, chosen)])
        if pieces > 1 or not touching.any():
            return None
        counted: Counter[str] = Counter()
        for symbol, number in zip(atoms.symbols[~chosen], touching, strict=True):
            counted[symbol] += int(number)
        shares = {metal: n / counted.total() for metal, n in counted.items() if n}
        return cls(adsorbate, list(atoms.symbols[chosen]), shares)


@dataclass(frozen=True)
class Correction:
    """Energies (eV) that the teacher lacks, linear in elements, adsorbate, metals, and both.

    Attributes:
        adsorbates, metals: that it is linear in.
        values: (n_columns,) eV, see `_row`.
        covered: adsorbates that it is good enough for.
        unseen: metals that no DFT has, which get what an average metal gets.
    """

    adsorbates: Sequence[str]
    metals: Sequence[str]
    values: np.ndarray
    covered: Sequence[str]
    unseen: Sequence[str]

    def __call__(self, site: Site) -> float:
        """The correction of a site."""
        return float(_row(site, self.adsorbates, self.metals) @ self.values)


def fit_correction(
    sites: Sequence[Site], missing: np.ndarray, unseen: Sequence[str] = ()
) -> Correction:
    """Fit a correction to DFT minus teacher (n,) eV of some sites, by ridge regression."""
    adsorbates = _often(Counter(site.adsorbate for site in sites))
    metals = _often(Counter(metal for site in sites for metal in site.metals))
    used = [
        k
        for k, site in enumerate(sites)
        if site.adsorbate in adsorbates and set(site.metals) <= set(metals)
    ]
    rows = np.array([_row(sites[k], adsorbates, metals) for k in used])
    parts = (len(ELEMENTS), len(adsorbates), len(metals), len(adsorbates) * len(metals))
    pull = np.diag(np.repeat(PULLS, parts))
    values = np.linalg.solve(rows.T @ rows + pull, rows.T @ missing[used])
    errors = defaultdict(list)
    for k, error in zip(used, np.abs(rows @ values - missing[used]), strict=True):
        errors[sites[k].adsorbate].append(error)
    covered = [name for name in adsorbates if np.mean(errors[name]) < MOST_ERROR]
    return Correction(adsorbates, metals, values, covered, unseen)


def _often(counted: Counter[str]) -> list[str]:
    return sorted(name for name, number in counted.items() if number >= FEWEST)


def _row(site: Site, adsorbates: Sequence[str], metals: Sequence[str]) -> np.ndarray:
    """What a correction is linear in, (n_columns,): numbers of atoms of each element, which adsorbate,
    share of each metal, and which adsorbate times share of each metal.
    """
    elements = [site.symbols.count(symbol) for symbol in ELEMENTS]
    which = np.array([float(site.adsorbate == name) for name in adsorbates])
    shares = np.array([site.metals.get(metal, 0.0) for metal in metals])
    return np.concatenate([elements, which, shares, np.outer(which, shares).ravel()])


def left_out_errors(sites: Sequence[Site], missing: np.ndarray) -> np.ndarray:
    """Errors (eV) of corrections fitted without a tenth of the sites, of those that they cover."""
    tenth = np.random.default_rng(0).integers(0, 10, len(sites))
    errors = []
    for k in range(10):
        fitted = fit_correction(
            [s for s, at in zip(sites, tenth, strict=True) if at != k], missing[tenth != k]
        )
        for place in np.flatnonzero(tenth == k).tolist():
            site = sites[place]
            if site.adsorbate in fitted.covered and set(site.metals) <= set(fitted.metals):
                errors.append(fitted(site) - missing[place])
    return np.array(errors)


def disagreement(
    some: tuple[Sequence[Site], np.ndarray], others: tuple[Sequence[Site], np.ndarray]
) -> np.ndarray:
    """How much DFT minus teacher (eV) of two sets differs for each adsorbate on a pure metal that both
    have; what geometry explains is in the teacher.
    """
    found = []
    for sites, missing in (some, others):
        pairs: dict[tuple[str, str], list[float]] = defaultdict(list)
        for site, value in zip(sites, missing, strict=True):
            if len(site.metals) == 1:
                pairs[site.adsorbate, next(iter(site.metals))].append(float(value))
        found.append({pair: float(np.median(values)) for pair, values in pairs.items()})
    first, second = found
    return np.array([first[pair] - second[pair] for pair in sorted(first) if pair in second])


def known_sites(
    teacher: Teacher | None,
    folder: Path,
    sets: Sequence[str] = KNOWN,
    without: str | None = None,
) -> tuple[list[Site], np.ndarray]:
    """Sites of the training parts of DFT, and DFT minus teacher (eV) at each.

    Args:
        teacher: its energies are kept in the folder; None where they are there.
        folder: for `<set>.npz`.
        sets: of DFT.
        without: a metal; slabs that have it are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sites, missing = [], []
    for name in sets:
        parents = [parent for parent in SETS[name]() if parent.part == "train"]
        file = folder / f"{name}.npz"
        if not file.exists() and teacher is not None:
            whole, _ = teacher([parent.atoms for parent in parents])
            bare, _ = teacher([_bare(parent.atoms) for parent in parents])
            np.savez(file, sids=[parent.sid for parent in parents], whole=whole, bare=bare)
        with np.load(file) as kept:
            whole, bare = kept["whole"], kept["bare"]
        # a slab that an adsorbate has pulled at the least is nearest to the clean one
        clean: dict[tuple[object, ...], float] = defaultdict(lambda: np.inf)
        slabs = [_slab_of(parent) for parent in parents]
        for slab, energy in zip(slabs, bare, strict=True):
            clean[slab] = min(clean[slab], float(energy))
        for parent, slab, energy in zip(parents, slabs, whole, strict=True):
            site = Site.of(parent.atoms, parent.adsorbate)
            if site is not None and without not in parent.atoms.symbols:
                sites.append(site)
                missing.append(parent.energy - (float(energy) - clean[slab]))
    return sites, np.array(missing)


def _bare(atoms: Atoms) -> Atoms:
    return atoms[atoms.get_tags() != ADSORBATE]


def _slab_of(parent: Parent) -> tuple[object, ...]:
    """What tells the slab of a structure from others."""
    bare = _bare(parent.atoms)
    cell = tuple(np.round(bare.cell.cellpar()[[0, 1, 5]], 1))
    return parent.surface, bare.get_chemical_formula(), cell


def write_corrected(wide: Path, paths: Path, correction: Correction, target: Path) -> None:
    """Write the frames that a correction covers, with energies at the default level and the
    teacher's forces.

    Args:
        wide: folder of the prepared wide set.
        paths: file of `teacher_paths.py`, with total energies.
        correction: fitted.
        target: file that is written.
    """
    found = [
        atoms
        for file in sorted(wide.glob("wide-*.extxyz"))
        for atoms in _corrected(iread(file), correction)
        if atoms.info["adsorbate"] != CLEAN  # they have a file of their own
    ]
    found += _corrected(_against_slabs(list(iread(paths))), correction)
    write(target, found, format="extxyz")
    systems = {atoms.info["sid"] for atoms in found}
    print(f"{target.name}: {len(found)} structures of {len(systems)} systems", flush=True)


def _against_slabs(frames: Sequence[Atoms]) -> Iterator[Atoms]:
    """Frames with energies against the end of their slab's path, where that is known."""
    clean: dict[str, float] = {}
    for atoms in frames:
        if atoms.info["adsorbate"] == CLEAN:
            clean[str(atoms.info["system"])] = float(atoms.info["REF_energy"])
    for atoms in frames:
        system = str(atoms.info["system"])
        if system in clean:
            atoms.info["REF_energy"] -= clean[system]
            atoms.info["name"] = f"{atoms.info['sid']}#{atoms.info['frame']}"
            yield atoms


def _corrected(frames: Iterable[Atoms], correction: Correction) -> Iterator[Atoms]:
    """Frames with corrected energies, where the correction covers them, and those of clean slabs."""
    for atoms in frames:
        name = str(atoms.info["adsorbate"])
        if not set(_bare(atoms).symbols) <= {*correction.metals, *correction.unseen}:
            continue
        if name != CLEAN:
            site = Site.of(atoms, name)
            if site is None or name not in correction.covered:
                continue
            atoms.info["REF_energy"] += correction(site)
        atoms.info["name"] = f"corrected-{atoms.info['name']}"
        yield atoms
