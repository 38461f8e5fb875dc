"""Single-point errors of a potential on labeled samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geocalc.core.systems import Potential, free_atoms
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
    """Errors of energies and forces; NaN where a label or a prediction is missing.

    Attributes:
        n: number of samples.
        energy_mae: eV.
        energy_rmse: eV.
        within_0p02: fraction of energies with an absolute error below 0.02 eV (EwT).
        force_mae: eV/Angstrom, over components of free atoms.
        force_rmse: eV/Angstrom, over components of free atoms.
        force_mae_all: eV/Angstrom, over components of all atoms.
        force_null: eV/Angstrom, mean absolute reference component of free atoms (baseline: zero
            force).
        force_cosine: cosine between forces, mean over free atoms.
        efwt: fraction of structures with an energy error below 0.02 eV and all force error
            components of free atoms below 0.03 eV/Angstrom (EFwT).
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
    """Predicted and reference energies and forces.

    Attributes:
        energy: (n,) eV.
        energy_reference: (n,) eV.
        n_atoms: (n,) number of atoms of each structure.
        forces: (n_atoms, 3) eV/Angstrom of all structures.
        forces_reference: (n_atoms, 3) eV/Angstrom.
        free: (n_atoms,) bool, atoms that may move.
    """

    energy: np.ndarray
    energy_reference: np.ndarray
    n_atoms: np.ndarray
    forces: np.ndarray
    forces_reference: np.ndarray
    free: np.ndarray


def known_numbers(errors: DataclassInstance) -> dict[str, float]:
    """Return the fields of a dataclass of errors that are not NaN, by name."""
    return {name: value for name, value in asdict(errors).items() if not math.isnan(value)}


def predictions(
    potential: Potential,
    samples: Sequence[Sample],
    device: torch.device | str = "cpu",
    *,
    energies: bool = True,
) -> Predictions:
    """Predict energies and forces of samples, batch by batch.

    Args:
        potential: potential; forces it does not return become NaN.
        samples: labeled structures.
        device: device of the potential.
        energies: whether the samples have energies; without, the energy references become NaN.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(samples), BATCH):
        systems, labels = collate_samples(samples[start : start + BATCH])
        told = potential(systems.to(device))
        forces = (
            torch.full_like(labels.forces, torch.nan) if told.forces is None else told.forces.cpu()
        )
        free = free_atoms(systems.fixed)
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
    """Compute the errors of a potential on samples."""
    return errors_of(predictions(potential, samples, device))


def errors_of(told: Predictions) -> Errors:
    """Compute the errors of predictions."""
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
