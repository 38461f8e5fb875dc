"""Errors of energies, forces and relaxed positions, with OC20's definitions; functions of arrays.

Energies in eV, forces in eV/Angstrom, positions in Angstrom.
Source: Chanussot et al., Open Catalyst 2020 (2021), and the evaluator of that project.
"""

from __future__ import annotations

import numpy as np
from ase.geometry import find_mic

ENERGY_THRESHOLD = 0.02  # eV
FORCE_THRESHOLD = 0.03  # eV/Angstrom
DISTANCE_THRESHOLDS = np.arange(0.010, 0.500, 0.001)  # Angstrom; 490 values


def mae(error: np.ndarray) -> float:
    """Mean absolute value of errors of any shape."""
    return float(np.abs(error).mean())


def rmse(error: np.ndarray) -> float:
    """Root mean square of errors of any shape."""
    return float(np.sqrt(np.mean(np.square(error))))


def energy_within_threshold(error: np.ndarray, threshold: float = ENERGY_THRESHOLD) -> float:
    """EwT: share of energies (n_systems,) with an absolute error below the threshold."""
    return float((np.abs(error) < threshold).mean())


def distances(positions: np.ndarray, reference: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """True minimum-image distance of each atom from its reference place, (n_atoms,).

    Args:
        positions, reference: (n_atoms, 3). cell: (3, 3), rows are lattice vectors. pbc: (3,) bool.
    """
    difference = positions - reference
    if not np.any(pbc) or not len(difference):
        return np.linalg.norm(difference, axis=1)
    return np.asarray(find_mic(difference, cell, pbc)[1])


def distance_within_threshold(mean_distances: np.ndarray) -> float:
    """ADwT: share of structures whose mean distance is below a threshold, averaged over 0.010 to 0.499 Angstrom.

    Args:
        mean_distances: (n_systems,) mean over free atoms of the minimum-image distance.
    """
    return float((mean_distances[:, None] < DISTANCE_THRESHOLDS[None, :]).mean())


def position_mae(positions: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute difference of Cartesian coordinates (n_atoms, 3), without minimum image, as OC20 reports it."""
    return mae(positions - reference)


def force_cosine(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean over atoms of the cosine between force vectors (n_atoms, 3)."""
    norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(reference, axis=1)
    return float(np.mean(np.sum(predicted * reference, axis=1) / np.maximum(norms, 1e-12)))
