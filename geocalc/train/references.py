"""Reference energies and scales, fitted to the training samples."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from geocalc.core import elements
from geocalc.data.store import Sample
from geocalc.errors import RecipeError
from geocalc.graphs.supernodes import SUBSURFACE
from geocalc.potentials.card import Task
from geocalc.potentials.network import Scales

SHORTEST = 1e-3  # Angstrom; displacements that are zero everywhere have a unit nevertheless


def fit_scales(
    samples: Iterable[Sample],
    names: Sequence[tuple[str, ...]] = ((),),
    levels: Sequence[int | None] = (0,),
    task: Task = Task.S2EF,
    drop_subsurface: bool = False,
) -> Scales:
    """Fit per-element reference energies by least squares, and the scales of the residuals.

    Each sample is read once.

    Args:
        samples: training samples, energies in eV.
        names: elements with a reference for each level of theory; empty for all elements that
            occur.
        levels: level of theory of each source; None if its energies are not trained on.
        task: whether the vectors of the network are forces or displacements.
        drop_subsurface: whether atoms with tag 0 are invisible to the network and get no
            references.
    Returns:
        Scales. The energy scale is the standard deviation of the residual energies in eV; the force
            scale is the same number in eV/Angstrom; the displacement scale is the root mean square
            component over free atoms in Angstrom.
    Raises:
        RecipeError: a name is not an element.
    """
    unknown = sorted({name for some in names for name in some} - set(elements.symbols()))
    if unknown:
        raise RecipeError(
            f"fitted_references.elements names {', '.join(unknown)}, which are not chemical symbols"
        )
    # rows of the least squares; samples of one composition share theirs
    compositions: dict[bytes, int] = {}
    rows, energies, at, squares, n_moves = array("q"), array("d"), array("q"), 0.0, 0
    for sample in samples:
        level_here = levels[sample.source]
        if level_here is None:
            continue
        composition = np.bincount(
            seen_numbers(sample, drop_subsurface), minlength=elements.N_ELEMENTS + 1
        ).astype(np.int32)
        rows.append(compositions.setdefault(composition.tobytes(), len(compositions)))
        energies.append(sample.energy)
        at.append(level_here)
        moves = (sample.relaxed - sample.positions)[~sample.fixed]
        squares, n_moves = squares + float(np.sum(moves**2)), n_moves + moves.size
    counts = np.stack(
        [np.frombuffer(composition, dtype=np.int32) for composition in compositions]
    ).astype(float)
    row, energy, level = np.array(rows), np.array(energies), np.array(at)
    table = np.zeros((len(names), elements.N_ELEMENTS + 1))
    for number, some in enumerate(names):
        here = level == number
        present = counts[np.unique(row[here])].any(axis=0)
        chosen = [z for z in np.flatnonzero(present) if not some or elements.symbols()[z] in some]
        if chosen:
            table[number, chosen] = _least_squares(counts[:, chosen], row[here], energy[here])
    spread = float(np.std(energy - (counts @ table.T)[row, level]))
    scale = spread if spread > 1e-6 else 1.0
    if task is Task.S2EF:
        vectors = scale
    else:
        vectors = max(float(np.sqrt(squares / n_moves)), SHORTEST) if n_moves else 1.0
    return Scales(energy=scale, forces=vectors, references=torch.from_numpy(table))


def seen_numbers(sample: Sample, drop_subsurface: bool) -> np.ndarray:
    """Return the atomic numbers of the atoms that the network sees.

    The sum of their references is part of the energy.
    """
    return sample.numbers[sample.tags != SUBSURFACE] if drop_subsurface else sample.numbers


def _least_squares(counts: np.ndarray, row: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Minimize |counts[row] @ x - energy|^2 and return the x of smallest norm.

    Args:
        counts: (n_rows, n), compositions.
        row: (n_samples,), composition of each sample.
        energy: (n_samples,), eV.
    """
    weight = np.bincount(row, minlength=len(counts)).astype(float)
    mean = np.bincount(row, weights=energy, minlength=len(counts)) / np.maximum(weight, 1)
    root = np.sqrt(weight)
    return np.linalg.lstsq(counts * root[:, None], mean * root, rcond=None)[0]
