"""Several networks of one architecture that answer together; how far they differ tells how sure they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput


class Ensemble(Network):
    """The mean of its members.

    Args:
        members: networks with the same cutoff and neighbours, at least one.

    Source: Lakshminarayanan, Pritzel, Blundell, deep ensembles (2017).
    """

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        first = members[0]
        self.members = nn.ModuleList(members)
        self.cutoff, self.max_neighbors = first.cutoff, first.max_neighbors
        self.n_elements, self.n_levels = first.n_elements, first.n_levels

    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """The means of what the members say, and the energies of each, (n_members, n_systems)."""
        told: list[NetworkOutput] = [member(inputs) for member in self.members]
        energies = torch.stack([one.energy for one in told])
        return NetworkOutput(
            energy=energies.mean(0),
            atom_energies=_mean([one.atom_energies for one in told]),
            forces=_mean([one.forces for one in told]),
            member_energies=energies,
        )


def _mean(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known).mean(0) if len(known) == len(values) else None
