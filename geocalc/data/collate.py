"""Collation of samples into batches with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from geocalc.core.systems import Systems, per_atom, per_system
from geocalc.data.store import Sample


@dataclass(frozen=True, kw_only=True)
class BatchLabels:
    """BatchLabels of a batch; NaN for unknown values.

    Attributes:
        energy: (n_systems,) eV.
        forces: (n_atoms, 3) eV/Angstrom, constraints not applied.
        displacement: (n_atoms, 3) Angstrom, to the relaxed structure.
    """

    energy: Tensor = per_system()
    forces: Tensor = per_atom()
    displacement: Tensor = per_atom()

    def to(self, device: torch.device) -> BatchLabels:
        """Return the labels on another device."""
        return BatchLabels(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def collate_samples(samples: Sequence[Sample]) -> tuple[Systems, BatchLabels]:
    """Join samples into one batch with its labels, in order."""
    samples = list(samples)  # read the samples of a store only once
    counts = torch.tensor([len(s.numbers) for s in samples])
    systems = Systems(
        positions=_join(samples, "positions"),
        numbers=_join(samples, "numbers"),
        tags=_join(samples, "tags"),
        fixed=_join(samples, "fixed"),
        system_idx=torch.repeat_interleave(torch.arange(len(samples)), counts),
        cell=torch.from_numpy(np.stack([s.cell for s in samples])),
        pbc=torch.from_numpy(np.stack([s.pbc for s in samples])),
    )
    energy = torch.tensor([s.energy for s in samples], dtype=torch.float64)
    displacement = _join(samples, "relaxed") - systems.positions
    return systems, BatchLabels(
        energy=energy, forces=_join(samples, "forces"), displacement=displacement
    )


def _join(samples: Sequence[Sample], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([getattr(s, name) for s in samples]))
