"""FAENet: message passing on raw edge vectors, used with frame averaging.

Source: Duval et al., FAENet: Frame Averaging Equivariant GNN for Materials Modeling (ICML 2023).
"""

from __future__ import annotations

import math
from enum import StrEnum

import torch
from pydantic import Field
from torch import Tensor, nn

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput
from geocalc.core.lengths import safe_lengths
from geocalc.core.settings import Settings
from geocalc.nn.activation import swish
from geocalc.nn.basis import GaussianBasis, polynomial_envelope
from geocalc.nn.edges import EdgeFeatures, EdgeIndex
from geocalc.nn.embedding import AtomEmbedding
from geocalc.nn.ewald.blocks import EwaldBlock, EwaldFilter
from geocalc.nn.ewald.waves import EwaldSettings
from geocalc.nn.heads import EdgeForceHead, EnergyHead, ForceDecoder, ForceHead, ForceNorm
from geocalc.nn.interaction import Interaction, MessageType, Norm


class EnergyWeights(StrEnum):
    """Factor on the energy of each atom: none, or a Linear layer of its first or last features."""

    NONE = "none"
    INITIAL = "weighted-av-initial-embeds"
    FINAL = "weighted-av-final-embeds"


class Skip(StrEnum):
    """Use of the features of all layers in the energy.

    `none`: the last layer only; `concat`: a Linear layer of the energies of all layers; `add`:
    their sum; `concat_atom`: a Linear layer of the features of all layers.
    """

    NONE = "none"
    CONCAT = "concat"
    ADD = "add"
    CONCAT_ATOM = "concat_atom"


class FAENetSettings(Settings):
    """Settings of FAENet by their published names; lengths in Angstrom.

    Defaults suit a conservative potential. `compact_tables: true`, `smooth_cutoff: false` and
    `n_elements: 85` give the published numbers of parameters.
    """

    cutoff: float = Field(6.0, gt=0)
    max_neighbors: int | None = Field(None, ge=1)
    hidden_channels: int = Field(256, ge=2)
    num_filters: int = Field(128, ge=2)
    num_interactions: int = Field(4, ge=1)
    num_gaussians: int = Field(48, ge=2)
    directional_gaussians: int = Field(
        0, ge=0, description="number of Gaussians times the unit vector, added to the raw vector"
    )
    tag_hidden_channels: int = Field(16, ge=0)
    pg_hidden_channels: int = Field(32, ge=0)
    phys_embeds: bool = True
    phys_hidden_channels: int = Field(0, ge=0)
    mp_type: MessageType = MessageType.UPDOWNSCALE_BASE
    norm: Norm = Norm.LAYER
    complex_mp: bool = True
    second_layer_MLP: bool = False
    energy_head: EnergyWeights = EnergyWeights.NONE
    skip_co: Skip = Skip.CONCAT_ATOM
    direct_forces: bool = False
    force_decoder_type: ForceDecoder = ForceDecoder.MLP
    force_decoder_channels: int = Field(256, ge=1)
    force_decoder_norm: ForceNorm = ForceNorm.LAYER
    message_scale: float = Field(
        1.0,
        gt=0,
        description="factor on summed messages; 1/sqrt(mean number of neighbors) keeps them near 1",
    )
    smooth_cutoff: bool = True
    n_elements: int = Field(119, ge=2, le=119)
    compact_tables: bool = False
    n_levels: int = Field(1, ge=1, description="levels of theory that the network distinguishes")
    ewald: EwaldSettings | None = Field(
        None, description="long-range messages in addition to those along edges"
    )


class FAENet(Network):
    """FAENet network; see `FAENetSettings`."""

    def __init__(self, settings: FAENetSettings) -> None:
        super().__init__()
        s = settings
        self.cutoff, self.max_neighbors, self.smooth_cutoff = (
            s.cutoff,
            s.max_neighbors,
            s.smooth_cutoff,
        )
        self.n_elements, self.n_levels = s.n_elements, s.n_levels
        self.skip, self.weights = s.skip_co, s.energy_head
        self.basis = GaussianBasis(s.num_gaussians, s.cutoff)
        self.directional = (
            GaussianBasis(s.directional_gaussians, s.cutoff) if s.directional_gaussians else None
        )
        half = s.num_filters // 2
        self.edge_vector = nn.Linear(3 * (1 + s.directional_gaussians), half)
        self.edge_length = nn.Linear(s.num_gaussians, s.num_filters - half)
        self.edge_second = nn.Linear(s.num_filters, s.num_filters) if s.second_layer_MLP else None
        self.embedding = AtomEmbedding(
            s.hidden_channels,
            s.tag_hidden_channels,
            s.pg_hidden_channels,
            s.phys_embeds,
            s.phys_hidden_channels,
            s.second_layer_MLP,
            s.n_elements,
            s.compact_tables,
            s.n_levels,
        )
        self.blocks = nn.ModuleList(
            Interaction(
                s.hidden_channels, s.num_filters, s.mp_type, s.norm, s.complex_mp, s.message_scale
            )
            for _ in range(s.num_interactions)
        )
        self.energy = EnergyHead(s.hidden_channels)
        self.alpha = (
            nn.Linear(s.hidden_channels, 1) if s.energy_head is not EnergyWeights.NONE else None
        )
        depth = s.num_interactions + 1
        self.join = (
            nn.Linear(depth * s.hidden_channels, s.hidden_channels)
            if s.skip_co is Skip.CONCAT_ATOM
            else None
        )
        self.mix = nn.Linear(depth, 1) if s.skip_co is Skip.CONCAT else None
        self.force_head = _force_head(s) if s.direct_forces else None
        # floating-point type of edge features in forward passes without gradients
        self.edge_dtype: torch.dtype | None = None
        self.reciprocal = s.ewald
        if s.ewald is not None:
            self.long_filter = EwaldFilter(s.ewald)
            self.long_blocks = nn.ModuleList(
                EwaldBlock(s.hidden_channels, s.ewald) for _ in range(s.num_interactions)
            )
        self.reset_parameters()

    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """Predict energies (n_systems,) and, with a direct head, vectors (n_atoms, 3)."""
        edge, envelope = self.embed_edges(inputs.edge_vec, inputs.index)
        envelope = envelope if inputs.edge_weight is None else envelope * inputs.edge_weight
        hidden = self.embedding(inputs.numbers, inputs.tags, inputs.atom_levels)
        layers = [hidden]
        long_range = None if self.reciprocal is None else self.long_filter(inputs.waves)
        for k, block in enumerate(self.blocks):
            update = hidden + block(
                hidden, edge, envelope, inputs.index, inputs.system_idx, inputs.n_systems
            )
            hidden = (
                update
                if long_range is None
                else (update + self.long_blocks[k](hidden, long_range)) / math.sqrt(2.0)
            )
            layers.append(hidden)
        if self.join is not None:
            hidden = swish(self.join(torch.cat(layers, dim=1)))
        forces = self._vectors(hidden, edge, envelope, inputs)
        atoms = self._atom_energies(hidden, layers)
        energy = atoms.new_zeros(inputs.n_systems).index_add(0, inputs.system_idx, atoms)
        if self.mix is not None:
            energy = energy + self.mix.bias
        return NetworkOutput(
            energy=energy,
            atom_energies=atoms,
            forces=forces,
            layers=tuple(layers),
            features=layers[-1],
        )

    def _vectors(
        self, hidden: Tensor, edge: EdgeFeatures, envelope: Tensor, inputs: NetworkInput
    ) -> Tensor | None:
        """Compute the vectors of the direct head, (n_atoms, 3); None without a head."""
        if self.force_head is None or isinstance(self.force_head, ForceHead):
            return None if self.force_head is None else self.force_head(hidden)
        vector = inputs.edge_vec
        unit = vector / safe_lengths(vector)[:, None]
        return self.force_head(hidden, edge.to(hidden.dtype), envelope, unit, inputs.index)

    def embed_edges(self, edge_vec: Tensor, index: EdgeIndex) -> tuple[EdgeFeatures, Tensor]:
        """Compute features and envelope (n_edges, 1) of edge vectors (n_edges, 3).

        Functions of the length are computed once for an edge and its reverse.
        """
        vector = edge_vec.index_select(0, index.first_of_pair)
        length = safe_lengths(vector)
        envelope = (
            polynomial_envelope(length, self.cutoff)
            if self.smooth_cutoff
            else torch.ones_like(length)
        )
        edge = EdgeFeatures(
            swish(self.edge_vector(self._directions(edge_vec, length, index))),
            swish(self.edge_length(self.basis(length))),
        )
        # this layer mixes both parts, so an edge and its reverse differ from here on
        if self.edge_second is not None:
            edge = EdgeFeatures(swish(self.edge_second(edge.joined(index))), None)
        if self.edge_dtype is not None and not torch.is_grad_enabled():
            edge = edge.to(self.edge_dtype)
        return edge, envelope.index_select(0, index.pair_of)[:, None]

    def _directions(self, edge_vec: Tensor, length: Tensor, index: EdgeIndex) -> Tensor:
        """Join raw vectors and unit vectors times each directional Gaussian.

        Returns:
            (n_edges, 3 + 3 directional_gaussians).
        """
        if self.directional is None:
            return edge_vec
        radial = (self.directional(length) / length[:, None]).index_select(0, index.pair_of)
        return torch.cat([edge_vec, (edge_vec[:, :, None] * radial[:, None, :]).flatten(1)], dim=1)

    def _atom_energies(self, final: Tensor, layers: list[Tensor]) -> Tensor:
        """Compute the energy of each atom, (n_atoms,), from one or all layers as `skip_co` says.

        The bias of `mix` is not included; it is added once per structure.
        """
        if self.skip in (Skip.NONE, Skip.CONCAT_ATOM):
            return self._weighted(final, layers)
        depths = torch.stack([self._weighted(hidden, layers) for hidden in layers], dim=1)
        return depths.sum(1) if self.mix is None else depths @ self.mix.weight[0]

    def _weighted(self, hidden: Tensor, layers: list[Tensor]) -> Tensor:
        energy = self.energy(hidden)
        if self.alpha is not None:
            energy = energy * self.alpha(
                layers[0] if self.weights is EnergyWeights.INITIAL else hidden
            )
        return energy.squeeze(1)


def _force_head(s: FAENetSettings) -> ForceHead | EdgeForceHead:
    if s.force_decoder_type is ForceDecoder.EDGES:
        return EdgeForceHead(
            s.hidden_channels, s.num_filters, s.force_decoder_channels, s.force_decoder_norm
        )
    return ForceHead(
        s.hidden_channels, s.force_decoder_channels, s.force_decoder_type, s.force_decoder_norm
    )
