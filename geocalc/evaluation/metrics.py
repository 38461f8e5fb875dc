"""Errors of energies, forces and relaxed positions, with OC20's definitions; functions of arrays.

Energies in eV, forces in eV/Angstrom, positions in Angstrom. Thresholds are strict: what equals one
is not within it.

Where we differ from the evaluator of that project: the minimum image is the true one, in skewed
cells too (its own, `fractional_minimum_image`, is beside it, and here shifts periodic axes only),
each structure has its own periodic axes, and cosines are computed in float64.

Source: Chanussot et al., Open Catalyst 2020 (2021), and the evaluator of that project; the
thresholds of AFbT, which it does not compute, are recalled from the text of the challenge.
"""

from __future__ import annotations

import numpy as np
from ase.geometry import complete_cell, find_mic

ENERGY_THRESHOLD = 0.02  # eV
FORCE_THRESHOLD = 0.03  # eV/Angstrom
DISTANCE_THRESHOLDS = np.arange(0.010, 0.500, 0.001)  # Angstrom; 490 values
RELAXED = 0.05  # eV/Angstrom; FbT
RELAXED_THRESHOLDS = np.arange(10, 401) / 1000  # eV/Angstrom; AFbT, 391 values from 0.010 to 0.400


def mae(error: np.ndarray) -> float:
    """Mean absolute value of errors of any shape."""
    return float(np.abs(error).mean())


def rmse(error: np.ndarray) -> float:
    """Root mean square of errors of any shape."""
    return float(np.sqrt(np.mean(np.square(error))))


def energy_within_threshold(error: np.ndarray, threshold: float = ENERGY_THRESHOLD) -> float:
    """EwT: share of energies (n_systems,) with an absolute error below the threshold."""
    return float((np.abs(error) < threshold).mean())


def energy_forces_within_threshold(energy_error: np.ndarray, force_error: np.ndarray) -> float:
    """EFwT: share of structures with an absolute energy error below 0.02 eV and no force error of
    0.03 eV/Angstrom or more.

    Args:
        energy_error: (n_systems,).
        force_error: (n_systems,), see `largest_component`.
    """
    return float(
        ((np.abs(energy_error) < ENERGY_THRESHOLD) & (force_error < FORCE_THRESHOLD)).mean()
    )


def largest_component(force_error: np.ndarray, free: np.ndarray, n_atoms: np.ndarray) -> np.ndarray:
    """Largest absolute component of the force errors of the free atoms in each structure,
    (n_systems,); 0 where none is free.

    Args:
        force_error: (n_atoms, 3) of all structures.
        free: (n_atoms,) bool.
        n_atoms: (n_systems,) atoms of each.
    """
    largest = np.zeros(len(n_atoms))
    owner = np.repeat(np.arange(len(n_atoms)), n_atoms)
    np.maximum.at(largest, owner[free], np.abs(force_error[free]).max(axis=1, initial=0.0))
    return largest


def minimum_image(difference: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The shortest of the periodic images of each difference of positions, (n_atoms, 3).

    Args:
        difference: (n_atoms, 3).
        cell: (3, 3), rows are lattice vectors.
        pbc: (3,) bool.
    """
    if not np.any(pbc) or not len(difference):
        return difference
    return np.asarray(find_mic(difference, cell, pbc)[0])


def fractional_minimum_image(
    difference: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> np.ndarray:
    """The periodic image of each difference whose fractional coordinates lie within a half of zero,
    (n_atoms, 3).

    That is what OC20 calls the minimum image; in skewed cells another image may be shorter, see
    `minimum_image`. Only periodic axes are touched; OC20's evaluator also takes a cell from
    fractional coordinates above a half on axes that are not periodic.

    Args:
        difference: (n_atoms, 3).
        cell: (3, 3), rows are lattice vectors.
        pbc: (3,) bool.
    """
    if not np.any(pbc):
        return difference
    full = complete_cell(cell)
    fractional = np.linalg.solve(full.T, difference.T).T
    whole = np.ceil(fractional - 0.5)  # a half stays a half
    return np.asarray(difference - np.where(pbc, whole, 0.0) @ full)


def distances(
    positions: np.ndarray, reference: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> np.ndarray:
    """True minimum-image distance of each atom from its reference place, (n_atoms,).

    Args:
        positions, reference: (n_atoms, 3).
        cell: (3, 3), rows are lattice vectors.
        pbc: (3,) bool.
    """
    return np.asarray(np.linalg.norm(minimum_image(positions - reference, cell, pbc), axis=1))


def distance_within_threshold(mean_distances: np.ndarray, threshold: float) -> float:
    """DwT: share of structures whose mean distance (n_systems,) is below one threshold; see
    `average_distance_within_threshold`.
    """
    return float((mean_distances < threshold).mean())


def average_distance_within_threshold(mean_distances: np.ndarray) -> float:
    """ADwT: share of structures whose mean distance is below a threshold, averaged over 0.010 to
    0.499 Angstrom.

    Args:
        mean_distances: (n_systems,) mean over free atoms of the minimum-image distance.
    """
    return float((mean_distances[:, None] < DISTANCE_THRESHOLDS[None, :]).mean())


def position_mae(positions: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute difference of Cartesian coordinates (n_atoms, 3), without minimum image, as
    OC20 reports it.
    """
    return mae(positions - reference)


def position_mae_minimum_image(
    positions: np.ndarray, reference: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> float:
    """Mean absolute component of the shortest way (n_atoms, 3) between positions and reference; see
    `distances`.
    """
    return mae(minimum_image(positions - reference, cell, pbc))


def forces_below_threshold(fmax: np.ndarray, threshold: float = RELAXED) -> float:
    """FbT: share of relaxed structures whose reference forces are below a threshold.

    Args:
        fmax: (n_systems,) largest norm of a reference force on a free atom; what is NaN is not
            below.
        threshold: eV/Angstrom.
    """
    return float((fmax < threshold).mean())


def average_forces_below_threshold(fmax: np.ndarray) -> float:
    """AFbT: FbT averaged over thresholds from 0.010 to 0.400 eV/Angstrom in steps of 0.001,
    recalled; see `RELAXED_THRESHOLDS`.
    """
    return float((fmax[:, None] < RELAXED_THRESHOLDS[None, :]).mean())


def force_cosine(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean over atoms of the cosine between force vectors (n_atoms, 3)."""
    norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(reference, axis=1)
    return float(np.mean(np.sum(predicted * reference, axis=1) / np.maximum(norms, 1e-12)))
