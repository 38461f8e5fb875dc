"""Errors of relaxed energies and geometries predicted from unrelaxed structures (IS2RE, IS2RS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geocalc.core.systems import Potential, free_atoms
from geocalc.data.collate import collate_samples
from geocalc.data.store import Sample
from geocalc.evaluation.metrics import energy_within_threshold, mae, position_mae, rmse

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class PairErrors:
    """Errors of IS2RE and, where displacements are predicted, of IS2RS.

    Attributes:
        n: number of structures.
        energy_mae: eV.
        energy_median: median absolute error, eV.
        energy_rmse: eV.
        within_0p02: fraction of energies with an absolute error below 0.02 eV (EwT).
        position_mae: Angstrom, mean over the coordinates of free atoms; NaN without displacements.
        position_null: Angstrom, `position_mae` of the unrelaxed geometry (baseline: no
            displacement).
    """

    n: int
    energy_mae: float
    energy_median: float
    energy_rmse: float
    within_0p02: float
    position_mae: float
    position_null: float


@dataclass(frozen=True, kw_only=True)
class PairPredictions:
    """Predicted and reference values of IS2RE.

    Attributes:
        energy: (n,) predicted relaxed energies, eV.
        energy_reference: (n,) reference relaxed energies, eV.
        spread: (n,) standard deviation over an ensemble, eV; NaN for a single network.
        displacement: (n_free, 3) predicted displacements of free atoms, Angstrom; None if the model
            predicts none.
        displacement_reference: (n_free, 3) Angstrom.
    """

    energy: np.ndarray
    energy_reference: np.ndarray
    spread: np.ndarray
    displacement: np.ndarray | None
    displacement_reference: np.ndarray


def pair_predictions(
    potential: Potential, samples: Sequence[Sample], device: torch.device | str = "cpu"
) -> PairPredictions:
    """Predict relaxed energies and displacements of unrelaxed structures, batch by batch."""
    energies, references, spreads, moves, wanted = [], [], [], [], []
    for start in range(0, len(samples), BATCH):
        systems, labels = collate_samples(samples[start : start + BATCH])
        told = potential(systems.to(device))
        free = free_atoms(systems.fixed)
        energies.append(told.energy.cpu().numpy())
        references.append(labels.energy.numpy())
        spreads.append(
            np.full(len(references[-1]), np.nan)
            if told.energy_std is None
            else told.energy_std.cpu().numpy()
        )
        wanted.append(labels.displacement[free].numpy())
        if told.displacement is not None:
            moves.append(told.displacement.cpu()[free].numpy())
    return PairPredictions(
        energy=np.concatenate(energies),
        energy_reference=np.concatenate(references),
        spread=np.concatenate(spreads),
        displacement=np.concatenate(moves) if moves else None,
        displacement_reference=np.concatenate(wanted),
    )


def pair_errors(told: PairPredictions) -> PairErrors:
    """Compute the errors of predicted relaxed energies and displacements."""
    error, wanted = told.energy - told.energy_reference, told.displacement_reference
    return PairErrors(
        n=len(error),
        energy_mae=mae(error),
        energy_median=float(np.median(np.abs(error))),
        energy_rmse=rmse(error),
        within_0p02=energy_within_threshold(error),
        position_mae=float("nan")
        if told.displacement is None
        else position_mae(told.displacement, wanted),
        position_null=mae(wanted),
    )
