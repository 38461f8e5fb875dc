"""Forces and stress as derivatives of the energy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.core.systems import Systems


@dataclass(frozen=True, kw_only=True)
class LeafGeometry:
    """Positions and cells of a batch, and the tensors that the energy is differentiated by.

    Attributes:
        positions: (n_atoms, 3) Angstrom, a function of `leaves`.
        cell: (n_systems, 3, 3) Angstrom, a function of `leaves`.
        leaves: positions (n_atoms, 3) in Angstrom and, for stress, the strain (n_systems, 3, 3),
            which is zero; empty where nothing is differentiated.
    """

    positions: Tensor
    cell: Tensor
    leaves: tuple[Tensor, ...]


@dataclass(frozen=True)
class Slopes:
    """Forces (n_atoms, 3) in eV/Angstrom and stress (n_systems, 3, 3) in eV/Angstrom^3, or None."""

    forces: Tensor | None = None
    stress: Tensor | None = None


def fixed_geometry(systems: Systems) -> LeafGeometry:
    """Return the geometry of a batch without anything to differentiate by."""
    return LeafGeometry(positions=systems.positions, cell=systems.cell, leaves=())


def leaf_geometry(systems: Systems, stress: bool) -> LeafGeometry:
    """Return the geometry of a batch as a function of positions and, for stress, of strain.

    A strain e moves atoms and cell vectors r to r (1 + e); only its symmetric part counts.
    """
    positions = systems.positions.detach().requires_grad_()
    if not stress:
        return LeafGeometry(positions=positions, cell=systems.cell, leaves=(positions,))
    strain = torch.zeros_like(systems.cell).requires_grad_()
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    shifts = torch.einsum("ai,aij->aj", positions, symmetric[systems.system_idx])
    return LeafGeometry(
        positions=positions + shifts,
        cell=systems.cell + systems.cell @ symmetric,
        leaves=(positions, strain),
    )


def derivatives(
    energy: Tensor, geometry: LeafGeometry, systems: Systems, *, keep_graph: bool
) -> Slopes:
    """Differentiate energies by the leaves of a geometry.

    Args:
        energy: (n_systems,) eV, computed from `geometry`.
        geometry: positions and cells with their leaves.
        systems: the batch without strain.
        keep_graph: whether forces and stress can be differentiated again.
    """
    if not geometry.leaves:
        return Slopes()
    slopes = torch.autograd.grad(energy.sum(), geometry.leaves, create_graph=keep_graph)
    if len(slopes) == 1:
        return Slopes(forces=-slopes[0])
    return Slopes(forces=-slopes[0], stress=slopes[1] / _volumes(systems)[:, None, None])


def _volumes(systems: Systems) -> Tensor:
    """Compute the volumes of the cells, (n_systems,) cubic Angstrom; NaN for a cell without one."""
    volume = torch.linalg.det(systems.cell).abs()
    return torch.where(volume > 0, volume, torch.nan)
