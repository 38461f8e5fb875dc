"""Inherent structures: minima of the potential energy reached from thermal configurations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geocalc.core.systems import Systems
from geocalc.properties.glass.configuration import NUMBERS, GlassConfiguration
from geocalc.properties.glass.kob_andersen import KobAndersen
from geocalc.properties.glass.monotone_lbfgs import MonotoneLbfgs
from geocalc.relaxation.loop import relax_systems
from geocalc.relaxation.status import Status


@dataclass(frozen=True, kw_only=True)
class InherentStructure:
    """Minimum of the potential energy.

    Attributes:
        positions: (n, 3) sigma_AA, continuous with the configuration (not wrapped), so that
            differences are displacements.
        energies: (n,) epsilon_AA, energy of each particle.
        fmax: epsilon_AA / sigma_AA, largest remaining force.
        n_steps: number of steps taken.
        status: CONVERGED if `fmax` is below the requested value.
    """

    positions: np.ndarray
    energies: np.ndarray
    fmax: float
    n_steps: int
    status: Status


def glass_systems(configuration: GlassConfiguration) -> Systems:
    """Convert a configuration to a batch of one structure, for `KobAndersen` and relaxations."""
    n = configuration.n_particles
    return Systems(
        positions=torch.from_numpy(configuration.positions.copy()),
        numbers=torch.from_numpy(NUMBERS[configuration.types]),
        tags=torch.zeros(n, dtype=torch.int64),
        fixed=torch.zeros(n, 3, dtype=torch.bool),
        system_idx=torch.zeros(n, dtype=torch.int64),
        cell=torch.diag(torch.from_numpy(configuration.box.copy()))[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )


def inherent_structure(
    configuration: GlassConfiguration, fmax: float = 1e-3, max_steps: int = 5000
) -> InherentStructure:
    """The minimum that lies downhill from a configuration, of `KobAndersen`.

    Args:
        configuration: of any temperature.
        fmax: epsilon_AA / sigma_AA.
        max_steps: of `geocalc.properties.glass.monotone_lbfgs`.
    Returns:
        What was reached; where `status` is not CONVERGED, the geometry of lowest energy on the way.
        A start from which the energy falls by more than 10 per particle, as no thermal
        configuration has it, ends as EXPLODED.
    Source: Stillinger and Weber, Phys. Rev. A 25, 978 (1982).
    """
    potential = KobAndersen()
    (end,) = relax_systems(
        glass_systems(configuration), potential, MonotoneLbfgs(), fmax=fmax, max_steps=max_steps
    )
    energies = potential(end.systems).atom_energies
    return InherentStructure(
        positions=end.systems.positions.numpy(),
        energies=np.full(0, np.nan) if energies is None else energies.numpy(),
        fmax=end.fmax,
        n_steps=end.n_steps,
        status=end.status,
    )
