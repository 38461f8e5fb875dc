"""The teacher's wide set with adsorption energies in place of total ones.

The energy of a clean slab is that of the last structure of its path, which later adsorbates sit on;
what an adsorbate costs in a gas is left to the references of each element. So a network need not
learn how metals cohere, which no adsorption energy depends on.
"""

from __future__ import annotations

import re
from pathlib import Path

from ase import Atoms
from ase.io import iread, write
from parents import read_file

RATTLED = 100  # frames from this number on are no part of a path
N_FILES = 15


def prepare_wide(folder: Path) -> None:
    """Write `wide-NN.extxyz` into a folder; files that exist are left as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(N_FILES):
        target = folder / f"wide-{number:02d}.extxyz"
        if target.exists():
            continue
        frames = list(read_file(f"teacher-wide-adslabs/wide_{number:02d}.extxyz.gz"))
        slabs = _clean_energies(frames)
        found = [with_labels(one, slabs) for one in frames if _slab_of(one) in slabs]
        draft = target.with_suffix(".part")
        write(draft, found, format="extxyz")
        draft.rename(target)
        print(f"{target.name}: {len(found)} of {len(frames)} structures", flush=True)


def prepare_clean(wide: Path, target: Path) -> None:
    """Write the clean slabs of the prepared wide set to a file of their own.

    A clean slab that has relaxed in its cell has no adsorption energy by definition, at any level
    of theory, so they tell the default level where its zero is on metals, facets and lattice
    constants that its own data lack.
    """
    found = [
        atoms
        for file in sorted(wide.glob("wide-*.extxyz"))
        for atoms in iread(file)
        if atoms.info["adsorbate"] == "clean"
    ]
    for atoms in found:
        atoms.info["name"] = f"clean-{atoms.info['name']}"
    write(target, found, format="extxyz")
    print(f"{target.name}: {len(found)} structures", flush=True)


def with_labels(atoms: Atoms, slabs: dict[str, float]) -> Atoms:
    """A copy with its energy against the clean slab, and its forces, as labels."""
    copy = atoms.copy()
    copy.info = {
        name: atoms.info[name] for name in ("sid", "frame", "kind", "adsorbate", "surface")
    }
    copy.info["system"] = _slab_of(atoms)
    copy.info["name"] = f"{atoms.info['sid']}#{atoms.info['frame']}"
    copy.info["REF_energy"] = atoms.calc.results["energy"] - slabs[_slab_of(atoms)]
    copy.set_array("REF_forces", atoms.calc.results["forces"])
    return copy


def _clean_energies(frames: list[Atoms]) -> dict[str, float]:
    """Energy of each clean slab at the end of its path, by name of the system."""
    last: dict[str, tuple[int, float]] = {}
    for atoms in frames:
        sid, frame = str(atoms.info["sid"]), int(atoms.info["frame"])
        if sid.endswith("-clean") and frame < RATTLED:
            name = _slab_of(atoms)
            if frame >= last.get(name, (-1, 0.0))[0]:
                last[name] = (frame, float(atoms.calc.results["energy"]))
    return {name: energy for name, (_, energy) in last.items()}


def _slab_of(atoms: Atoms) -> str:
    """Name of the system: that of the structure without its last part."""
    return re.sub(r"-[^-]+$", "", str(atoms.info["sid"]))
