"""Reference energies and scales, fitted on the training samples."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import torch

from geocalc import elements
from geocalc.card import Task
from geocalc.errors import RecipeError
from geocalc.potential import Scales
from geocalc.train.store import Sample

SHORTEST = 1e-3  # Angstrom; displacements that are zero everywhere have a unit nevertheless


def fit_scales(samples: Iterable[Sample], names: tuple[str, ...], task: Task = Task.S2EF) -> Scales:
    """Per-element references by ridge-free least squares, and the spread of what is left; every sample is looked at once.

    Args:
        samples: training samples, energies in eV.
        names: elements with a reference; empty for every element present.
        task: what the vectors of the network are.
    Returns:
        Scales: the energy unit is the root mean square residual energy; that of forces is the same number in eV/Angstrom, that of
        displacements the root mean square coordinate of the free atoms' in Angstrom.
    Raises:
        RecipeError: a name is no element.
    """
    unknown = sorted(set(names) - set(elements.symbols()))
    if unknown:
        raise RecipeError(f"references.elements names {', '.join(unknown)}, which are no chemical symbols")
    compositions: dict[bytes, int] = {}  # rows of the least squares; samples of one composition share theirs
    rows, energies, squares, n_moves = array("q"), array("d"), 0.0, 0
    for sample in samples:
        composition = np.bincount(sample.numbers, minlength=elements.N_ELEMENTS + 1).astype(np.int32)
        rows.append(compositions.setdefault(composition.tobytes(), len(compositions)))
        energies.append(sample.energy)
        moves = (sample.relaxed - sample.positions)[~sample.fixed]
        squares, n_moves = squares + float(np.sum(moves**2)), n_moves + moves.size
    counts = np.stack([np.frombuffer(composition, dtype=np.int32) for composition in compositions]).astype(float)
    row, energy = np.array(rows), np.array(energies)
    chosen = [z for z in np.flatnonzero(counts.any(axis=0)) if not names or elements.symbols()[z] in names]
    table = np.zeros(elements.N_ELEMENTS + 1)
    if chosen:
        table[chosen] = _least_squares(counts[:, chosen], row, energy)
    spread = float(np.std(energy - (counts @ table)[row]))
    scale = spread if spread > 1e-6 else 1.0
    if task is Task.S2EF:
        vectors = scale
    else:
        vectors = max(float(np.sqrt(squares / n_moves)), SHORTEST) if n_moves else 1.0
    return Scales(energy=scale, forces=vectors, references=torch.from_numpy(table))


def _least_squares(counts: np.ndarray, row: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """x that minimises the squares of counts[row] @ x - energy; the smallest of all that do.

    Args:
        counts: (n_rows, n). row: (n_samples,) in which every row occurs. energy: (n_samples,).
    """
    weight = np.bincount(row).astype(float)
    mean = np.bincount(row, weights=energy) / weight
    root = np.sqrt(weight)
    return np.linalg.lstsq(counts * root[:, None], mean * root, rcond=None)[0]
