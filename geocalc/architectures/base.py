"""What every network takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from geocalc.frames.learned.base import Canonicalizer
from geocalc.nn.edges import EdgeIndex
from geocalc.nn.ewald.waves import EwaldSettings, Waves


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """A batch of canonicalized structures as a network sees them.

    Attributes:
        numbers, tags: (n_atoms,) int64.
        system_idx: (n_atoms,) int64.
        n_systems: number of structures.
        index: the edges.
        edge_vec: (n_edges, 3) Angstrom in the frame of each structure.
        levels: (n_systems,) int64, number of the level of theory that is asked for.
        waves: of each structure, for networks that ask for them.
        edge_weight: (n_edges, 1), factor on the envelope of each edge, the same for its reverse;
            None for one.
    """

    numbers: Tensor
    tags: Tensor
    system_idx: Tensor
    n_systems: int
    index: EdgeIndex
    edge_vec: Tensor
    levels: Tensor
    waves: Waves | None = None
    edge_weight: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkOutput:
    """What a network says, in its own units and in the frame of each structure.

    Attributes:
        energy: (n_systems,).
        atom_energies: (n_atoms,), each atom's share of the energy, or None.
        forces: (n_atoms, 3) of a direct head, or None.
        member_energies: (n_members, n_systems), of each network of an ensemble, or None.
        layers: features (n_atoms, width) after the embedding and after each interaction, or None.
    """

    energy: Tensor
    atom_energies: Tensor | None = None
    forces: Tensor | None = None
    member_energies: Tensor | None = None
    layers: tuple[Tensor, ...] | None = None


class Network(nn.Module, ABC):
    """A module from `NetworkInput` to `NetworkOutput`.

    Attributes:
        cutoff: Angstrom; edges reach that far.
        max_neighbors: edges of each atom, None for all; see `build_graph`.
        n_elements: atomic numbers below this have an embedding.
        n_levels: levels of theory that it tells apart.
        reciprocal: which waves it asks for, None for none.
        canonicalizer: gives the frames of the policy `learned`, as a part of the network with its
            weights among the network's; or None.
    """

    cutoff: float
    max_neighbors: int | None
    n_elements: int
    n_levels: int = 1
    reciprocal: EwaldSettings | None = None

    def __init__(self) -> None:
        super().__init__()
        self.canonicalizer: Canonicalizer | None = None

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases for every Linear layer, as FAENet and SchNet were
        published.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @abstractmethod
    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """Energies (and direct forces) of the batch."""
