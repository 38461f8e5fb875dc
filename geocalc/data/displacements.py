"""Displaced copies of a relaxed structure, to be labeled by a teacher.

Each copy moves free atoms only. The kinds cover what an adsorbate does before it has relaxed: it
lies off its site, too high, tilted, with stretched bonds, on a slab that is warm.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation

from geocalc.structures.tags import ADSORBATE

SHIFT = 0.45  # Angstrom, largest shift along the surface
RISE = (-0.15, 0.35)  # Angstrom, change of height with a shift
LIFT = (0.4, 1.6)  # Angstrom
TILT = 30.0  # degrees, largest tilt
STRETCH = 0.09  # Angstrom, standard deviation of atoms of an adsorbate
WARM = (0.04, 0.11)  # Angstrom, standard deviation of every free atom


def shifted(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Move the adsorbate along the surface, and a little up or down, as a whole."""
    angle, length = rng.uniform(0, 2 * np.pi), SHIFT * np.sqrt(rng.uniform())
    step = np.array([np.cos(angle) * length, np.sin(angle) * length, rng.uniform(*RISE)])
    return _adsorbate(atoms)[:, None] * step


def lifted(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Move the adsorbate up as a whole."""
    return _adsorbate(atoms)[:, None] * np.array([0.0, 0.0, rng.uniform(*LIFT)])


def tilted(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Turn the adsorbate about its lowest atom, by an axis in any direction."""
    chosen = np.flatnonzero(_adsorbate(atoms))
    moves = np.zeros((len(atoms), 3))
    if not len(chosen):
        return moves
    lowest = chosen[atoms.positions[chosen, 2].argmin()]
    arms = atoms.get_distances(lowest, chosen, mic=True, vector=True)
    axis = rng.normal(size=3)
    turn = np.deg2rad(TILT * rng.uniform(0.2, 1.0)) * axis / np.linalg.norm(axis)
    moves[chosen] = Rotation.from_rotvec(turn).apply(arms) - arms
    return moves


def stretched(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Move each atom of the adsorbate alone."""
    return _adsorbate(atoms)[:, None] * rng.normal(scale=STRETCH, size=(len(atoms), 3))


def warmed(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Move every free atom alone."""
    return rng.normal(scale=rng.uniform(*WARM), size=(len(atoms), 3))


DISPLACEMENTS: dict[str, Callable[[Atoms, np.random.Generator], np.ndarray]] = {
    "shifted": lambda atoms, rng: shifted(atoms, rng) + 0.3 * warmed(atoms, rng),
    "tilted": lambda atoms, rng: tilted(atoms, rng) + 0.5 * shifted(atoms, rng),
    "stretched": lambda atoms, rng: stretched(atoms, rng) + 0.5 * warmed(atoms, rng),
    "warmed": lambda atoms, rng: warmed(atoms, rng) + 0.4 * shifted(atoms, rng),
    "lifted": lambda atoms, rng: lifted(atoms, rng) + 0.3 * warmed(atoms, rng),
}
NEAREST = 0.7  # of the sum of covalent radii; copies with closer atoms are drawn again
N_TRIES = 20


def displaced_copy(
    atoms: Atoms, kind: str, fixed: np.ndarray, rng: np.random.Generator
) -> Atoms | None:
    """A copy of `atoms` displaced in one of the `DISPLACEMENTS`; None if no sound one was found.

    Args:
        atoms: relaxed structure with tags.
        kind: one of `DISPLACEMENTS`.
        fixed: (n_atoms,) bool, atoms that stay.
        rng: random numbers.
    """
    for _ in range(N_TRIES):
        moves = DISPLACEMENTS[kind](atoms, rng)
        moves[fixed] = 0.0
        copy = atoms.copy()
        copy.positions += moves
        if not _overlaps(copy):
            return copy
    return None


def _adsorbate(atoms: Atoms) -> np.ndarray:
    """1 for atoms of the adsorbate, else 0, (n_atoms,)."""
    return (atoms.get_tags() == ADSORBATE).astype(float)


def _overlaps(atoms: Atoms) -> bool:
    """Whether two atoms are too close."""
    radii = covalent_radii[atoms.numbers] * NEAREST
    return bool(len(neighbor_list("i", atoms, radii, self_interaction=False)))
