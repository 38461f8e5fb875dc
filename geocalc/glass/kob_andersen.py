"""The Kob-Andersen mixture: two kinds of Lennard-Jones particles that do not crystallise easily.

V_ab(r) = 4 epsilon_ab [(sigma_ab / r)^12 - (sigma_ab / r)^6], cut at 2.5 sigma_ab and shifted to zero there. The energy has no jump
at the cutoff; the force has one, of 0.039 epsilon_ab / sigma_ab.

Energies are in epsilon_AA and lengths in sigma_AA where other potentials of geocalc have eV and Angstrom.

Source: Kob and Andersen, Phys. Rev. E 51, 4626 (1995).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geocalc.errors import InputError
from geocalc.glass.configuration import NUMBERS, GlassConfiguration
from geocalc.glass.parameters import CUTOFF, EPSILON, SIGMA
from geocalc.guards import Status
from geocalc.neighbors import NeighborCache, edge_vectors
from geocalc.optim import Lbfgs
from geocalc.relaxation import relax_systems
from geocalc.systems import Prediction, Systems, sum_per_system

A_NUMBER, B_NUMBER = NUMBERS.tolist()
SKIN = 0.4  # sigma_AA; a longer one makes every step dearer, a shorter one is searched more often


class KobAndersen:
    """The potential of systems whose A is hydrogen (1) and whose B is helium (2), the types of LAMMPS as ASE reads them.

    `atom_energies` of what it predicts are half the energy of all pairs of a particle, so that they add up to the energy. It keeps
    neighbour lists from call to call, which changes no result.
    """

    def __init__(self) -> None:
        self._graph = NeighborCache(CUTOFF * max(map(max, SIGMA)), skin=SKIN)

    def __call__(self, systems: Systems) -> Prediction:
        """Energy, forces and energies of particles, float64.

        Raises:
            InputError: there is another element, or particles lie on each other.
        """
        kind = _kinds(systems.numbers)
        graph = self._graph(systems)
        vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
        pair = 2 * kind[graph.receivers] + kind[graph.senders]
        sigma = torch.tensor(SIGMA, dtype=torch.float64, device=vectors.device).flatten()[pair]
        epsilon = torch.tensor(EPSILON, dtype=torch.float64, device=vectors.device).flatten()[pair]
        squared = (vectors * vectors).sum(dim=1) / sigma**2
        if squared.shape[0] and not bool(squared.min() > 0):
            raise InputError("two particles lie on each other; a Lennard-Jones energy is infinite there")
        within = squared < CUTOFF**2
        sixth = squared.reciprocal() ** 3
        energy = torch.where(within, 4 * epsilon * (sixth * (sixth - 1) - _SHIFT), 0.0)
        slope = torch.where(within, 24 * epsilon * sixth * (1 - 2 * sixth) / (squared * sigma**2), 0.0)  # dV/dr / r
        own = torch.zeros(systems.n_atoms, dtype=torch.float64, device=vectors.device).index_add_(
            0, graph.receivers, energy / 2
        )
        forces = torch.zeros_like(systems.positions).index_add_(0, graph.receivers, slope[:, None] * vectors)
        return Prediction(energy=sum_per_system(own, systems), forces=forces, atom_energies=own)


_SHIFT = CUTOFF**-12 - CUTOFF**-6


def _kinds(numbers: Tensor) -> Tensor:
    """0 for A and 1 for B, (n_atoms,) int64."""
    strange = (numbers != A_NUMBER) & (numbers != B_NUMBER)
    if bool(strange.any()):
        raise InputError(
            f"the Kob-Andersen mixture has atomic numbers {A_NUMBER} (A) and {B_NUMBER} (B), got {int(numbers[strange][0])}; "
            "see geocalc.glass.configuration.atoms_of"
        )
    return (numbers == B_NUMBER).long()


@dataclass(frozen=True, kw_only=True)
class InherentStructure:
    """A minimum of the potential energy.

    Attributes:
        positions: (n, 3), followed from the configuration without wrapping, so differences are displacements.
        energies: (n,) epsilon_AA, of each particle.
        fmax: epsilon_AA / sigma_AA, largest force that is left. n_steps: taken.
        status: CONVERGED where it is below what was asked for.
    """

    positions: np.ndarray
    energies: np.ndarray
    fmax: float
    n_steps: int
    status: Status


def systems_of(configuration: GlassConfiguration) -> Systems:
    """The configuration as a batch of one, for `KobAndersen` and relaxations."""
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


def inherent_structure(configuration: GlassConfiguration, fmax: float = 1e-3, max_steps: int = 5000) -> InherentStructure:
    """The minimum that lies downhill from a configuration, of `KobAndersen`.

    Args:
        configuration: of any temperature. fmax: epsilon_AA / sigma_AA. max_steps: of L-BFGS.
    Returns:
        What was reached; where `status` is not CONVERGED, the geometry of lowest energy on the way.
    Source: Stillinger and Weber, Phys. Rev. A 25, 978 (1982).
    """
    potential = KobAndersen()
    (end,) = relax_systems(systems_of(configuration), potential, Lbfgs(), fmax=fmax, max_steps=max_steps)
    energies = potential(end.systems).atom_energies
    assert energies is not None
    return InherentStructure(
        positions=end.systems.positions.numpy(),
        energies=energies.numpy(),
        fmax=end.fmax,
        n_steps=end.n_steps,
        status=end.status,
    )
