"""Predict 30 large molecules on surfaces, of up to 52 atoms; molecules in training have about 20.

The data set gives no energies of their clean slabs, so energies are compared among the molecules on
one slab: the mean over the slab is subtracted from references and from predictions.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import splits
from ase import Atoms
from ase.io import read

from geocalc import from_atoms
from geocalc.potentials import NetworkPotential

FILE = "bm_large_molecules_init_and_relaxed.extxyz.gz"
LIGHT = ("H", "C", "N", "O", "S")


@dataclass(frozen=True, kw_only=True)
class Large:
    """An unrelaxed structure, the slab it shares with others, and its relaxed energy less that of
    the free molecule (eV).
    """

    sid: str
    slab: str
    atoms: Atoms
    energy: float


def structures() -> Iterator[Large]:
    """Those on a surface."""
    path = Path(os.environ["GEOCALC_DATA"]) / splits.DATA / FILE
    with gzip.open(path, "rt") as handle:
        frames = read(io.StringIO(handle.read()), ":", format="extxyz")
    relaxed = {
        str(a.info["sid"]): float(a.info["e_relaxed"])
        for a in frames
        if a.info["state"] == "relaxed"
    }
    for atoms in frames:
        sid = str(atoms.info["sid"])
        metal, _, molecule = sid.removeprefix("bm_").partition("-")
        if atoms.info["state"] == "relaxed" or not molecule:
            continue
        n_metal = sum(symbol not in LIGHT for symbol in atoms.symbols)
        tagged = _tagged(atoms)
        yield Large(
            sid=sid,
            slab=f"{metal}{n_metal}",
            atoms=tagged,
            energy=relaxed[sid] - relaxed[f"bm_{molecule}"],
        )


def _tagged(atoms: Atoms) -> Atoms:
    """With the upper half of the slab as its surface, as in the training data; the tags of the file
    differ from slab to slab.
    """
    metal = np.array([symbol not in LIGHT for symbol in atoms.symbols])
    height = atoms.positions[:, 2]
    tags = np.where(height > np.median(height[metal]), 1, 0)
    tags[~metal] = 2
    copy = atoms.copy()
    copy.set_tags(tags)
    return copy


def errors(potentials: Sequence[NetworkPotential]) -> dict[str, float]:
    """Errors of the mean over networks, eV: `null` is that of predicting one energy for all
    molecules of a slab.
    """
    chosen = list(structures())
    told = np.array(
        [
            np.mean([float(potential(from_atoms(one.atoms)).energy[0]) for potential in potentials])
            for one in chosen
        ]
    )
    wanted = np.array([one.energy for one in chosen])
    slabs = np.array([one.slab for one in chosen])
    for slab in set(slabs):
        here = slabs == slab
        told[here] -= told[here].mean()
        wanted[here] -= wanted[here].mean()
    return {
        "n": len(chosen),
        "mae": float(np.abs(told - wanted).mean()),
        "null": float(np.abs(wanted).mean()),
    }
