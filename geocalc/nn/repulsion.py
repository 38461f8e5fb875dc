"""Short-range repulsion between nuclei, which keeps overlapping atoms from low energies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geocalc.core import elements
from geocalc.nn.basis import polynomial_envelope

COULOMB = 14.399645  # e^2 / (4 pi epsilon_0) in eV Angstrom
SCREENING = 0.46850  # Angstrom; 0.8854 Bohr radii
WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)


class Repulsion(nn.Module):
    """Ziegler-Biersack-Littmark pair energy with a smooth short-range cutoff.

    Args:
        reach: fraction of the sum of single-bond radii at which the pair energy and two derivatives
            vanish; below 0.85 no bond of the training data is affected.
    Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985).
    """

    radii: Tensor

    def __init__(self, reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.register_buffer("radii", torch.from_numpy(elements.covalent_radii()), persistent=False)

    def limit(self, numbers_i: Tensor, numbers_j: Tensor) -> Tensor:
        """Return the lengths in Angstrom beyond which the pair energy is zero, (n_edges,).

        Args:
            numbers_i: (n_edges,) atomic numbers.
            numbers_j: (n_edges,) atomic numbers.
        """
        return self.reach * (self.radii[numbers_i] + self.radii[numbers_j])

    def forward(self, length: Tensor, numbers_i: Tensor, numbers_j: Tensor) -> Tensor:
        """Return half the pair energy of each directed edge, (n_edges,) eV.

        Args:
            length: (n_edges,) Angstrom.
            numbers_i: (n_edges,) atomic numbers.
            numbers_j: (n_edges,) atomic numbers.
        """
        limit = self.limit(numbers_i, numbers_j).to(length.dtype)
        zi, zj = numbers_i.to(length.dtype), numbers_j.to(length.dtype)
        scaled = length * (zi**0.23 + zj**0.23) / SCREENING
        screening = sum(w * torch.exp(-d * scaled) for w, d in zip(WEIGHTS, DECAYS, strict=True))
        switch = polynomial_envelope(length / limit, 1.0)
        return 0.5 * COULOMB * zi * zj / length.clamp(min=1e-3) * screening * switch
