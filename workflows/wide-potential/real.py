"""Real DFT frames with forces, of reaction paths and of crowded surfaces, that need no teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.io import write
from parents import BEEF, RPBE, read_file, share

PBE = "PBE"
# of reaction paths; the groups of crowded Pt below are chosen by hand, one of each facet
PATH_SHARE = 0.2
SYSTEM_SHARE = 0.3
N_FRAMES = 14  # of a relaxation
CO_ON_PT_TEST = ("111-10pt", "553-island_from_bulk-1ad")


def reaction_paths(part: str) -> Iterator[Atoms]:
    """Images of dry NEB paths on Cu with energies (BEEF-vdW)."""
    return (atoms for atoms, energy in _paths(part) if energy)


def reaction_forces(part: str) -> Iterator[Atoms]:
    """Images of NEB paths whose slab has no energy of its own, under water or of another
    pseudopotential (BEEF-vdW); for forces alone.
    """
    return (atoms for atoms, energy in _paths(part) if not energy)


def co_on_pt(part: str) -> Iterator[Atoms]:
    """Pt covered by CO (PBE); for forces alone."""
    for atoms in read_file("pt-co-reconstruction/co_pt_frames.extxyz.gz"):
        info = atoms.info
        if (str(info["group"]) in CO_ON_PT_TEST) is (part == "test"):
            energy = float(atoms.calc.results["energy"])
            yield _labeled(atoms, f"{info['sid']}#{info['frame']}", str(info["group"]), PBE, energy)


def oc20(part: str) -> Iterator[Atoms]:
    """Relaxations of OC20 (RPBE), some frames of each; for forces alone."""
    return _relaxations("oc20-trajectories-sample/oc20_traj.extxyz.gz", part)


def alcohols(part: str) -> Iterator[Atoms]:
    """Relaxations of alcohols (RPBE), some frames of each; for forces alone."""
    return _relaxations("finetuna-alcohol-adslab-relax/alcohol_traj.extxyz.gz", part)


SETS = {
    "neb": reaction_paths,
    "neb-forces": reaction_forces,
    "co-on-pt": co_on_pt,
    "oc20": oc20,
    "alcohols": alcohols,
}


def prepare_real(folder: Path) -> None:
    """Write the training part of each set to `<set>.extxyz`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, read in SETS.items():
        found = list(read("train"))
        write(folder / f"{name}.extxyz", found, format="extxyz")
        print(f"{name}: {len(found)} structures", flush=True)


def _paths(part: str) -> Iterator[tuple[Atoms, bool]]:
    """Images of all paths, and whether their energies are on the scale of the level."""
    for atoms in read_file("cathub-co2r-beef/adslab_and_neb.extxyz.gz"):
        info = atoms.info
        if info["kind"] != "neb_image":
            continue
        held_out = share(str(info["group"])) < PATH_SHARE
        if held_out is not (part == "test"):
            continue
        on_scale = info["pp"] == "USPP" and not info.get("n_water", 0)
        energy = float(atoms.calc.results["energy"])
        if on_scale:
            energy += float(info["e_ads"]) - float(info["e_relaxed"])
        labeled = _labeled(
            atoms, f"{info['sid']}#{info['frame']}", str(info["group"]), BEEF, energy
        )
        yield labeled, on_scale


def _relaxations(path: str, part: str) -> Iterator[Atoms]:
    """Evenly spaced frames of the relaxations of a part."""
    frames = defaultdict(list)
    for atoms in read_file(path):
        frames[str(atoms.info["sid"])].append(atoms)
    for sid, images in frames.items():
        if (share(sid) < SYSTEM_SHARE) is not (part == "test"):
            continue
        for atoms in images[:: -(-len(images) // N_FRAMES)]:
            energy = float(atoms.calc.results["energy"])
            name = f"{sid}#{atoms.info['frame']}"
            yield _labeled(atoms, name, sid, RPBE, energy)


def _labeled(atoms: Atoms, sid: str, parent: str, level: str, energy: float) -> Atoms:
    """A copy with its labels in the names that the reader knows."""
    copy = atoms.copy()
    copy.info = {"sid": sid, "parent": parent, "level": level, "REF_energy": energy}
    copy.set_array("REF_forces", atoms.calc.results["forces"])
    return copy
