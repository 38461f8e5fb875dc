"""Errors of a potential on labelled samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geocalc.systems import Potential
from geocalc.train.batches import collate
from geocalc.train.store import Sample

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Mean absolute errors, energies in eV, forces per component in eV/Angstrom.

    Attributes:
        n: samples. energy_mae, energy_rmse: eV. force_mae: over components of atoms free to move; force_mae_all: of every atom.
        force_null: mean |F| component of the free atoms, the error of predicting zero. force_cosine: mean over free atoms.
    """

    n: int
    energy_mae: float
    energy_rmse: float
    force_mae: float
    force_mae_all: float
    force_null: float
    force_cosine: float


def measure(potential: Potential, samples: Sequence[Sample], device: torch.device | str = "cpu") -> Errors:
    """Errors of a potential with forces over samples, batch by batch."""
    energy, predicted, wanted, free = [], [], [], []
    for start in range(0, len(samples), BATCH):
        systems, labels = collate(samples[start : start + BATCH])
        prediction = potential(systems.to(device))
        energy.append((prediction.energy.cpu() - labels.energy).numpy())
        forces = torch.zeros_like(labels.forces) if prediction.forces is None else prediction.forces.cpu()
        predicted.append(forces.numpy())
        wanted.append(labels.forces.numpy())
        free.append(~systems.fixed.all(1).cpu().numpy())
    e, f, g, mask = (np.concatenate(part) for part in (energy, predicted, wanted, free))
    norms = np.linalg.norm(f[mask], axis=1) * np.linalg.norm(g[mask], axis=1)
    return Errors(
        n=len(samples),
        energy_mae=float(np.abs(e).mean()),
        energy_rmse=float(np.sqrt((e**2).mean())),
        force_mae=float(np.abs(f - g)[mask].mean()),
        force_mae_all=float(np.abs(f - g).mean()),
        force_null=float(np.abs(g[mask]).mean()),
        force_cosine=float(np.mean((f[mask] * g[mask]).sum(1) / np.maximum(norms, 1e-12))),
    )
