"""Errors of a potential on labeled samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geocalc.core.systems import Potential
from geocalc.data.collate import collate_samples
from geocalc.data.store import Sample
from geocalc.evaluation.metrics import (
    energy_forces_within_threshold,
    energy_within_threshold,
    force_cosine,
    largest_component,
    mae,
    rmse,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Mean absolute errors, energies in eV, forces per component in eV/Angstrom; NaN where they are
    not known.

    Attributes:
        n: samples.
        energy_mae, energy_rmse: eV.
        within_0p02: share of energies below 0.02 eV (EwT).
        force_mae, force_rmse: over components of atoms free to move; force_mae_all: of every atom.
        force_null: mean |F| component of the free atoms, the error of predicting zero.
        force_cosine: mean over free atoms.
        efwt: share of structures below 0.02 eV and, in every component of the free atoms, 0.03
            eV/Angstrom (EFwT); NaN where an energy or a force is not known.
    """

    n: int
    energy_mae: float
    energy_rmse: float
    within_0p02: float
    force_mae: float
    force_rmse: float
    force_mae_all: float
    force_null: float
    force_cosine: float
    efwt: float


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted beside reference.

    Attributes:
        energy, energy_reference: (n,) eV.
        n_atoms: (n,) atoms of each structure.
        forces, forces_reference: (n_atoms, 3) eV/Angstrom of all structures.
        free: (n_atoms,) bool, atoms that may move.
    """

    energy: np.ndarray
    energy_reference: np.ndarray
    n_atoms: np.ndarray
    forces: np.ndarray
    forces_reference: np.ndarray
    free: np.ndarray


def known_numbers(errors: DataclassInstance) -> dict[str, float]:
    """Errors by name, without those that are NaN."""
    return {name: value for name, value in asdict(errors).items() if not math.isnan(value)}


def predictions(
    potential: Potential,
    samples: Sequence[Sample],
    device: torch.device | str = "cpu",
    *,
    energies: bool = True,
) -> Predictions:
    """Evaluate a potential on samples, batch by batch; what it does not give is NaN, and so are
    references without `energies`.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(samples), BATCH):
        systems, labels = collate_samples(samples[start : start + BATCH])
        told = potential(systems.to(device))
        forces = (
            torch.full_like(labels.forces, torch.nan) if told.forces is None else told.forces.cpu()
        )
        free = ~systems.fixed.all(1)
        columns = (told.energy.cpu(), labels.energy, systems.counts, forces, labels.forces, free)
        parts.append(tuple(t.numpy() for t in columns))
    energy, energy_reference, n_atoms, forces_all, forces_reference, free_all = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Predictions(
        energy=energy,
        energy_reference=energy_reference if energies else np.full_like(energy_reference, np.nan),
        n_atoms=n_atoms,
        forces=forces_all,
        forces_reference=forces_reference,
        free=free_all,
    )


def single_point_errors(
    potential: Potential, samples: Sequence[Sample], device: torch.device | str = "cpu"
) -> Errors:
    """Errors of a potential over samples."""
    return errors_of(predictions(potential, samples, device))


def errors_of(told: Predictions) -> Errors:
    """Errors of predictions."""
    energy_error, force_error = (
        told.energy - told.energy_reference,
        told.forces - told.forces_reference,
    )
    known = bool(np.isfinite(energy_error).all())
    both = known and bool(np.isfinite(force_error[told.free]).all())
    return Errors(
        n=len(told.energy),
        energy_mae=mae(energy_error),
        energy_rmse=rmse(energy_error),
        within_0p02=energy_within_threshold(energy_error) if known else math.nan,
        force_mae=mae(force_error[told.free]),
        force_rmse=rmse(force_error[told.free]),
        force_mae_all=mae(force_error),
        force_null=mae(told.forces_reference[told.free]),
        force_cosine=force_cosine(told.forces[told.free], told.forces_reference[told.free]),
        efwt=energy_forces_within_threshold(
            energy_error, largest_component(force_error, told.free, told.n_atoms)
        )
        if both
        else math.nan,
    )
