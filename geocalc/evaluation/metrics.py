"""Error metrics of energies, forces and relaxed positions as OC20 defines them.

Energies are in eV, forces in eV/Angstrom, positions in Angstrom. Thresholds are strict: a value
equal to the threshold is not within it.

Differences from the OC20 evaluator: the minimum image is exact in skewed cells too (OC20's own is
`fractional_minimum_image`, which here shifts periodic axes only), each structure has its own
periodic axes, and cosines are computed in float64.

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
    """Compute the mean absolute error of errors of any shape."""
    return float(np.abs(error).mean())


def rmse(error: np.ndarray) -> float:
    """Compute the root mean square error of errors of any shape."""
    return float(np.sqrt(np.mean(np.square(error))))


def energy_within_threshold(error: np.ndarray, threshold: float = ENERGY_THRESHOLD) -> float:
    """Compute EwT: the fraction of absolute energy errors (n_systems,) below the threshold."""
    return float((np.abs(error) < threshold).mean())


def energy_forces_within_threshold(energy_error: np.ndarray, force_error: np.ndarray) -> float:
    """Compute EFwT: the fraction of structures with accurate energy and forces.

    A structure counts if its absolute energy error is below 0.02 eV and every force error below
    0.03 eV/Angstrom.

    Args:
        energy_error: (n_systems,) eV.
        force_error: (n_systems,) eV/Angstrom, see `largest_component`.
    """
    return float(
        ((np.abs(energy_error) < ENERGY_THRESHOLD) & (force_error < FORCE_THRESHOLD)).mean()
    )


def largest_component(force_error: np.ndarray, free: np.ndarray, n_atoms: np.ndarray) -> np.ndarray:
    """Find the largest absolute force error component over the free atoms of each structure.

    Args:
        force_error: (n_atoms, 3) of all structures, eV/Angstrom.
        free: (n_atoms,) bool, atoms that may move.
        n_atoms: (n_systems,) number of atoms of each structure.
    Returns:
        (n_systems,) eV/Angstrom; 0 for a structure without free atoms.
    """
    largest = np.zeros(len(n_atoms))
    owner = np.repeat(np.arange(len(n_atoms)), n_atoms)
    np.maximum.at(largest, owner[free], np.abs(force_error[free]).max(axis=1, initial=0.0))
    return largest


def minimum_image(difference: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace each difference of positions by its shortest periodic image.

    Args:
        difference: (n_atoms, 3) Angstrom.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
    Returns:
        (n_atoms, 3) Angstrom.
    """
    if not np.any(pbc) or not len(difference):
        return difference
    return np.asarray(find_mic(difference, cell, pbc)[0])


def fractional_minimum_image(
    difference: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> np.ndarray:
    """Replace each difference by the periodic image with fractional coordinates within 0.5 of zero.

    OC20 calls this the minimum image; in skewed cells another image may be shorter, see
    `minimum_image`. Only periodic axes are shifted; OC20's evaluator also subtracts a lattice
    vector from fractional coordinates above 0.5 on axes that are not periodic.

    Args:
        difference: (n_atoms, 3) Angstrom.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
    Returns:
        (n_atoms, 3) Angstrom.
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
    """Compute the exact minimum-image distance of each atom from its reference position.

    Args:
        positions: (n_atoms, 3) Angstrom.
        reference: (n_atoms, 3) Angstrom.
        cell: (3, 3) Angstrom, rows are lattice vectors.
        pbc: (3,) bool.
    Returns:
        (n_atoms,) Angstrom.
    """
    return np.asarray(np.linalg.norm(minimum_image(positions - reference, cell, pbc), axis=1))


def distance_within_threshold(mean_distances: np.ndarray, threshold: float) -> float:
    """Compute DwT: the fraction of mean distances (n_systems,) below one threshold.

    See `average_distance_within_threshold` for the average over OC20's thresholds.
    """
    return float((mean_distances < threshold).mean())


def average_distance_within_threshold(mean_distances: np.ndarray) -> float:
    """Compute ADwT: DwT averaged over the thresholds 0.010 to 0.499 Angstrom.

    Args:
        mean_distances: (n_systems,) Angstrom, minimum-image distance averaged over free atoms.
    """
    return float((mean_distances[:, None] < DISTANCE_THRESHOLDS[None, :]).mean())


def position_mae(positions: np.ndarray, reference: np.ndarray) -> float:
    """Compute the mean absolute coordinate difference (n_atoms, 3), without minimum image.

    OC20 reports this value.
    """
    return mae(positions - reference)


def position_mae_minimum_image(
    positions: np.ndarray, reference: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> float:
    """Compute the mean absolute component of the minimum-image differences to a reference.

    Arguments are those of `distances`.
    """
    return mae(minimum_image(positions - reference, cell, pbc))


def forces_below_threshold(fmax: np.ndarray, threshold: float = RELAXED) -> float:
    """Compute FbT: the fraction of relaxed structures with reference forces below a threshold.

    Args:
        fmax: (n_systems,) eV/Angstrom, largest norm of a reference force on a free atom; NaN counts
            as not below the threshold.
        threshold: eV/Angstrom.
    """
    return float((fmax < threshold).mean())


def average_forces_below_threshold(fmax: np.ndarray) -> float:
    """AFbT: FbT averaged over thresholds from 0.010 to 0.400 eV/Angstrom in steps of 0.001,
    recalled; see `RELAXED_THRESHOLDS`.
    """
    return float((fmax[:, None] < RELAXED_THRESHOLDS[None, :]).mean())


def force_cosine(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Compute the mean cosine between predicted and reference force vectors (n_atoms, 3)."""
    norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(reference, axis=1)
    return float(np.mean(np.sum(predicted * reference, axis=1) / np.maximum(norms, 1e-12)))
