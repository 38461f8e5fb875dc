"""Interface of all networks: input, output and base class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from geocalc.frames.learned.base import Canonicalizer
from geocalc.nn.edges import EdgeIndex
from geocalc.nn.embedding import AtomEmbedding
from geocalc.nn.ewald.waves import EwaldSettings, Waves


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """Input of a network: a batch of structures, each in its frame.

    Attributes:
        numbers: (n_atoms,) int64, atomic numbers.
        tags: (n_atoms,) int64.
        system_idx: (n_atoms,) int64, the structure of each atom.
        n_systems: number of structures.
        index: senders and receivers of the edges.
        edge_vec: (n_edges, 3) Angstrom, in the frame of each structure.
        levels: (n_systems,) int64, number of the level of theory to predict.
        waves: reciprocal-space waves, for networks with `reciprocal` settings.
        edge_weight: (n_edges, 1), factor on the envelope of each edge, equal for an edge and its
            reverse; None where all are 1.
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

    @property
    def atom_levels(self) -> Tensor:
        """Level of theory of each atom, that of its structure, (n_atoms,) int64."""
        return self.levels[self.system_idx]


@dataclass(frozen=True, kw_only=True)
class NetworkOutput:
    """Output of a network, in its own units and in the frame of each structure.

    Attributes:
        energy: (n_systems,).
        atom_energies: (n_atoms,), contribution of each atom to the energy, or None.
        forces: (n_atoms, 3), vectors of a direct head, or None.
        member_energies: (n_members, n_systems), energies of each network of an ensemble, or None.
        layers: features (n_atoms, width) after the embedding and after each interaction, or None.
        features: invariant features (n_atoms, width) of the last layer, which tell what the network
            knows of the surroundings of an atom; or None.
    """

    energy: Tensor
    atom_energies: Tensor | None = None
    forces: Tensor | None = None
    member_energies: Tensor | None = None
    layers: tuple[Tensor, ...] | None = None
    features: Tensor | None = None


class Network(nn.Module, ABC):
    """Base class of networks: a module from `NetworkInput` to `NetworkOutput`.

    Attributes:
        cutoff: longest edge in Angstrom.
        max_neighbors: largest number of edges of an atom, None for no limit; see `build_graph`.
        n_elements: atomic numbers below this have an embedding.
        n_levels: number of levels of theory that the network distinguishes.
        reciprocal: settings of the waves it needs, or None.
        canonicalizer: submodule that computes the frames of the policy `learned`, or None.
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
        """Draw Xavier-uniform weights and set biases to zero in every Linear layer, as published
        for FAENet and SchNet.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def penalty(self) -> Tensor:
        """Compute the penalty of the weights that training may add to its loss, a scalar.

        Zero unless an architecture defines one, such as the group lasso of relaxed weights.
        """
        return next(self.parameters()).new_zeros(())

    def fold_level(self, number: int) -> None:
        """Become a network of one level of theory, which predicts what this one does at a level."""
        for module in self.modules():
            if isinstance(module, AtomEmbedding):
                module.fold_level(number)
        self.n_levels = 1

    @abstractmethod
    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """Predict energies, and vectors where there is a direct head, of a batch."""
