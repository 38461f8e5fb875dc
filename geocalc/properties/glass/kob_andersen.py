"""Kob-Andersen potential: a binary Lennard-Jones mixture that hardly crystallizes.

V_ab(r) = 4 epsilon_ab [(sigma_ab / r)^12 - (sigma_ab / r)^6], cut at 2.5 sigma_ab and shifted to
zero there. The energy is continuous at the cutoff; the force jumps by 0.039 epsilon_ab / sigma_ab.

Energies are in epsilon_AA and lengths in sigma_AA, where other potentials of geocalc have eV and
Angstrom.

Source: Kob and Andersen, Phys. Rev. E 51, 4626 (1995).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.core.systems import Prediction, Systems, sum_per_system
from geocalc.errors import InputError
from geocalc.graphs.neighbors import build_graph, edge_vectors
from geocalc.properties.glass.configuration import NUMBERS
from geocalc.properties.glass.parameters import CUTOFF, EPSILON, SIGMA

A_NUMBER, B_NUMBER = NUMBERS.tolist()
SKIN = 0.4  # sigma_AA; a longer one makes every step dearer, a shorter one is searched more often


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Neighbor list: pairs within their cutoff plus a skin, each once.

    Attributes:
        systems: structures at the time of the search.
        first: (n_pairs,) int64, index of the first particle.
        second: (n_pairs,) int64, index of the second particle.
        offsets: (n_pairs, 3) sigma_AA, offset of the periodic image of the second particle.
        sigma: (n_pairs,) sigma_AA.
        epsilon: (n_pairs,) epsilon_AA.
    """

    systems: Systems
    first: Tensor
    second: Tensor
    offsets: Tensor
    sigma: Tensor
    epsilon: Tensor

    @classmethod
    def search(cls, systems: Systems) -> _Pairs:
        """Find the pairs within their cutoff plus the skin."""
        kind = _kinds(systems.numbers)
        graph = build_graph(systems, CUTOFF * max(map(max, SIGMA)) + SKIN)
        pair = 2 * kind[graph.receivers] + kind[graph.senders]
        sigma = torch.tensor(SIGMA, dtype=torch.float64, device=pair.device).flatten()[pair]
        epsilon = torch.tensor(EPSILON, dtype=torch.float64, device=pair.device).flatten()[pair]
        lengths = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph).norm(
            dim=1
        )
        x, y, z = graph.shifts.unbind(dim=1)
        # of two images of a particle around itself, one
        image = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
        once = (graph.senders > graph.receivers) | ((graph.senders == graph.receivers) & image)
        kept = once & (lengths < CUTOFF * sigma + SKIN)
        first, second = graph.receivers[kept], graph.senders[kept]
        cells = systems.cell[systems.system_idx[first]]
        return cls(
            systems=systems,
            first=first,
            second=second,
            offsets=(graph.shifts[kept, :, None] * cells).sum(dim=1),
            sigma=sigma[kept],
            epsilon=epsilon[kept],
        )

    def hold(self, systems: Systems) -> bool:
        """Return whether the list contains all pairs of `systems` within their cutoffs."""
        old = self.systems
        same = all(
            torch.equal(getattr(old, name), getattr(systems, name))
            for name in ("numbers", "system_idx", "cell", "pbc")
        )
        return same and bool(
            ((systems.positions - old.positions) ** 2).sum(dim=1).max() < (SKIN / 2) ** 2
        )


class KobAndersen:
    """Kob-Andersen potential; A is hydrogen (1) and B is helium (2), as ASE reads LAMMPS types.

    `atom_energies` of a prediction are half the energies of all pairs of a particle, so that they
    add up to the energy. The neighbor list is reused until a particle has moved by half of the
    skin; apart from rounding this does not change the results.
    """

    def __init__(self) -> None:
        self._pairs: _Pairs | None = None

    def __call__(self, systems: Systems) -> Prediction:
        """Compute energy, forces and energies of particles, float64.

        Raises:
            InputError: there is another element, or particles coincide.
        """
        if self._pairs is None or not self._pairs.hold(systems):
            self._pairs = _Pairs.search(systems)
        pairs, x = self._pairs, systems.positions
        vectors = x.index_select(0, pairs.second) - x.index_select(0, pairs.first) + pairs.offsets
        squared = (vectors * vectors).sum(dim=1) / pairs.sigma**2
        within = torch.nonzero(squared < CUTOFF**2).squeeze(1)
        squared, vectors, first, second = (
            part.index_select(0, within) for part in (squared, vectors, pairs.first, pairs.second)
        )
        sigma, epsilon = pairs.sigma.index_select(0, within), pairs.epsilon.index_select(0, within)
        if not bool((squared > 0).all()):
            raise InputError(
                "two particles lie on each other; a Lennard-Jones energy is infinite there"
            )
        sixth = squared.reciprocal() ** 3
        energy = 4 * epsilon * (sixth * (sixth - 1) - _SHIFT)
        # dV/dr, along the vector
        pair_forces = (24 * epsilon * sixth * (1 - 2 * sixth) / (squared * sigma**2))[
            :, None
        ] * vectors
        own = (
            x.new_zeros(systems.n_atoms)
            .index_add_(0, first, energy / 2)
            .index_add_(0, second, energy / 2)
        )
        forces = (
            torch.zeros_like(x)
            .index_add_(0, first, pair_forces)
            .index_add_(0, second, -pair_forces)
        )
        return Prediction(energy=sum_per_system(own, systems), forces=forces, atom_energies=own)


_SHIFT = CUTOFF**-12 - CUTOFF**-6


def _kinds(numbers: Tensor) -> Tensor:
    """Convert atomic numbers to type indices (n_atoms,) int64: 0 for A and 1 for B."""
    strange = (numbers != A_NUMBER) & (numbers != B_NUMBER)
    if bool(strange.any()):
        raise InputError(
            f"the Kob-Andersen mixture has atomic numbers {A_NUMBER} (A) and {B_NUMBER} (B), got"
            f" {int(numbers[strange][0])}; see geocalc.properties.glass.glass_atoms"
        )
    return (numbers == B_NUMBER).long()
