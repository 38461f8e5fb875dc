"""Reference energies and scales, fitted on the training samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from geocalc import elements
from geocalc.card import Task
from geocalc.errors import RecipeError
from geocalc.potential import Scales
from geocalc.train.store import Sample


def fit_scales(samples: Sequence[Sample], names: tuple[str, ...], task: Task = Task.S2EF) -> Scales:
    """Per-element references by ridge-free least squares, and the spread of what is left.

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
    present = sorted({int(z) for s in samples for z in s.numbers})
    chosen = [z for z in present if not names or elements.symbols()[z] in names]
    counts = np.array([[np.count_nonzero(s.numbers == z) for z in chosen] for s in samples], dtype=float)
    energies = np.array([s.energy for s in samples])
    table = np.zeros(elements.N_ELEMENTS + 1)
    if chosen:
        table[chosen] = np.linalg.lstsq(counts, energies, rcond=None)[0]
    spread = float(np.std(energies - counts @ table[chosen])) if chosen else float(np.std(energies))
    scale = spread if spread > 1e-6 else 1.0
    vectors = scale if task is Task.S2EF else _spread_of_moves(samples)
    return Scales(energy=scale, forces=vectors, references=torch.from_numpy(table))


def _spread_of_moves(samples: Sequence[Sample]) -> float:
    moves = np.concatenate([(s.relaxed - s.positions)[~s.fixed] for s in samples])
    return max(float(np.sqrt(np.mean(moves**2))), 1e-3) if len(moves) else 1.0
