"""Several networks of one architecture that answer together; how far they differ tells how sure
they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput
from geocalc.core.elements import N_ELEMENTS


class Ensemble(Network):
    """The mean of its members, in the units of the first.

    Members that learned from different data have units and references of their own; `set_units` says
    how theirs become the first's.

    Args:
        members: networks with the same cutoff, neighbors and levels, at least one.

    Source: Lakshminarayanan, Pritzel, Blundell, deep ensembles (2017).
    """

    ratios: Tensor
    vector_ratios: Tensor
    offsets: Tensor

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        first = members[0]
        self.members = nn.ModuleList(members)
        self.cutoff, self.max_neighbors = first.cutoff, first.max_neighbors
        self.n_elements, self.n_levels = first.n_elements, first.n_levels
        self.reciprocal = first.reciprocal
        n = len(members)
        self.register_buffer("ratios", torch.ones(n))
        self.register_buffer("vector_ratios", torch.ones(n))
        self.register_buffer("offsets", torch.zeros(n, first.n_levels, N_ELEMENTS + 1))

    def set_units(self, ratios: Tensor, vector_ratios: Tensor, offsets: Tensor) -> None:
        """Make the members' outputs comparable.

        Args:
            ratios, vector_ratios: (n_members,) units of the first in one unit of each, of energies
                and of vectors.
            offsets: (n_members, n_levels, 119) units of the first, added for each atom of an
                element.
        """
        self.ratios.copy_(ratios)
        self.vector_ratios.copy_(vector_ratios)
        self.offsets.copy_(offsets)

    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """The means of what the members say, and the energies of each, (n_members, n_systems)."""
        told = [self._told(k, member(inputs), inputs) for k, member in enumerate(self.members)]
        energies = torch.stack([one.energy for one in told])
        return NetworkOutput(
            energy=energies.mean(0),
            atom_energies=_mean([one.atom_energies for one in told]),
            forces=_mean([one.forces for one in told]),
            member_energies=energies,
        )

    def _told(self, k: int, output: NetworkOutput, inputs: NetworkInput) -> NetworkOutput:
        """What member `k` says, in the units of the first."""
        offset = self.offsets[k][inputs.atom_levels, inputs.numbers]
        energy, atoms, vectors = output.energy * self.ratios[k], output.atom_energies, output.forces
        return NetworkOutput(
            energy=energy.index_add(0, inputs.system_idx, offset),
            atom_energies=None if atoms is None else atoms * self.ratios[k] + offset,
            forces=None if vectors is None else vectors * self.vector_ratios[k],
        )


def _mean(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known).mean(0) if len(known) == len(values) else None
