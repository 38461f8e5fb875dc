"""Ensemble of networks of one architecture; the spread of its members estimates the error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput
from geocalc.core.elements import N_ELEMENTS


class Ensemble(Network):
    """Mean of several networks, in the units of the first.

    Members trained on different data have different units and references; `set_units` stores the
    conversion to those of the first.

    Args:
        members: at least one network; all with the same cutoff, neighbors and levels.

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
        """Set the conversion of each member's output to the units of the first.

        Args:
            ratios: (n_members,) energy unit of each member in units of the first.
            vector_ratios: (n_members,) the same for vectors.
            offsets: (n_members, n_levels, 119) in units of the first, added for each atom of an
                element.
        """
        self.ratios.copy_(ratios)
        self.vector_ratios.copy_(vector_ratios)
        self.offsets.copy_(offsets)

    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """Average the outputs of the members; keeps the energies of each, and the features of the
        first.
        """
        outputs = [
            self._converted(k, member(inputs), inputs) for k, member in enumerate(self.members)
        ]
        energies = torch.stack([one.energy for one in outputs])
        return NetworkOutput(
            energy=energies.mean(0),
            atom_energies=_mean([one.atom_energies for one in outputs]),
            forces=_mean([one.forces for one in outputs]),
            member_energies=energies,
            features=outputs[0].features,
        )

    def _converted(self, k: int, output: NetworkOutput, inputs: NetworkInput) -> NetworkOutput:
        """Convert the output of member `k` to the units of the first."""
        offset = self.offsets[k][inputs.atom_levels, inputs.numbers]
        energy, atoms, vectors = output.energy * self.ratios[k], output.atom_energies, output.forces
        return NetworkOutput(
            energy=energy.index_add(0, inputs.system_idx, offset),
            atom_energies=None if atoms is None else atoms * self.ratios[k] + offset,
            forces=None if vectors is None else vectors * self.vector_ratios[k],
            features=output.features,
        )


def _mean(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known).mean(0) if len(known) == len(values) else None
