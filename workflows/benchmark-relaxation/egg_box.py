"""Compute an egg-box potential of negligible cost, to time everything else in a relaxation.

E = sum over coordinates of D (1 - cos(2 pi x / L)), with a different depth D along each axis: the
curvatures differ thirtyfold, so that no optimizer converges after a few steps. This module imports
nothing but torch, because the script that runs torch-sim uses it too.
"""

from __future__ import annotations

import math
import time

from torch import Tensor

PERIOD = 3.0  # Angstrom
DEPTHS = (0.1, 0.6, 3.0)  # eV along x, y, z
WAVE = 2 * math.pi / PERIOD


def egg_box(positions: Tensor, owner: Tensor, n_systems: int) -> tuple[Tensor, Tensor]:
    """Energies (n_systems,) in eV and forces (n_atoms, 3) in eV/Angstrom.

    Args:
        positions: (n_atoms, 3) Angstrom.
        owner: (n_atoms,) int64, the structure of each atom.
        n_systems: number of structures.
    """
    depths, phase = positions.new_tensor(DEPTHS), WAVE * positions
    energies = ((1 - phase.cos()) * depths).sum(1)
    return positions.new_zeros(n_systems).index_add_(
        0, owner, energies
    ), -WAVE * depths * phase.sin()


class Clock:
    """Seconds (of processor time) spent in a potential, calls, structures evaluated: what is to be
    told apart from the engine.
    """

    def __init__(self) -> None:
        self.seconds, self.calls, self.structures = 0.0, 0, 0

    def egg_box(self, positions: Tensor, owner: Tensor, n_systems: int) -> tuple[Tensor, Tensor]:
        """The potential, timed and counted."""
        start = time.thread_time()
        found = egg_box(positions, owner, n_systems)
        self.seconds += time.thread_time() - start
        self.calls += 1
        self.structures += n_systems
        return found
