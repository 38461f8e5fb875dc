"""Choose held-out sets: a fold of the authors, some metals, or some molecules."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ase import Atoms
from ase.io import read

DATA = "gamenet-fg-adsorption"
PARTS = 5  # of the molecules, by hash


@dataclass(frozen=True)
class Split:
    """Structures whose info has one of some values under a key."""

    name: str
    key: str
    values: tuple[str, ...]


def find(name: str) -> Split:
    """The split of that name: fold1 to fold4, metal-pd (or any other), or molecules0 to molecules4.

    Raises:
        ValueError: there is none.
    """
    if name.startswith("fold"):
        return Split(name, "cv_fold", (name.removeprefix("fold"),))
    if name.startswith("metal-"):
        return Split(name, "metal", (name.removeprefix("metal-"),))
    if name.startswith("molecules"):
        part = int(name.removeprefix("molecules"))
        return Split(name, "molecule", tuple(sorted(m for m in molecules() if _part(m) == part)))
    raise ValueError(
        f"no split is called {name}; there are fold1 to fold4, metal-<symbol>, molecules0 to molecules{PARTS - 1}"
    )


def _part(molecule: str) -> int:
    return int.from_bytes(hashlib.sha256(molecule.encode()).digest()[:4], "big") % PARTS


@cache
def structures() -> tuple[Atoms, ...]:
    """Every unrelaxed structure of the folds that are here."""
    path = Path(os.environ["GEOCALC_DATA"]) / DATA / "fg_adslab_init.extxyz.gz"
    return tuple(read(io.StringIO(gzip.open(path, "rt").read()), ":", format="extxyz"))


def molecules() -> set[str]:
    """Names of the molecules."""
    return {str(atoms.info["molecule"]) for atoms in structures()}
