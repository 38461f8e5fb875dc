"""SchNet: continuous-filter convolutions with filters of interatomic distances.

The network is invariant and needs no frames.

Source: Schuett et al., SchNet: A continuous-filter convolutional neural network for modeling
quantum interactions (NeurIPS 2017), and SchNet: a deep learning architecture for molecules and
materials (J. Chem. Phys. 148, 241722, 2018).
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput
from geocalc.core.lengths import safe_lengths
from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.nn.activation import shifted_softplus
from geocalc.nn.basis import GaussianBasis, cosine_envelope
from geocalc.nn.convolution import convolve
from geocalc.nn.edges import EdgeIndex
from geocalc.nn.embedding import N_TAGS
from geocalc.nn.ewald.blocks import EwaldBlock, EwaldFilter
from geocalc.nn.ewald.waves import EwaldSettings


class SchNetSettings(Settings):
    """Settings of SchNet by their published names; lengths in Angstrom.

    Defaults are the published ones, except the cutoff (published: 10).
    """

    cutoff: float = Field(6.0, gt=0)
    max_neighbors: int | None = Field(None, ge=1)
    hidden_channels: int = Field(128, ge=2)
    num_filters: int = Field(128, ge=1)
    num_interactions: int = Field(6, ge=1)
    num_gaussians: int = Field(50, ge=2)
    tag_hidden_channels: int = Field(
        0, ge=0, description="part of hidden_channels that embeds the tag; 0 as published"
    )
    message_scale: float = Field(
        1.0,
        gt=0,
        description="factor on summed messages; 1/sqrt(mean number of neighbors) keeps them near 1",
    )
    n_elements: int = Field(119, ge=2, le=119)
    n_levels: int = Field(1, ge=1, description="levels of theory that the network distinguishes")
    ewald: EwaldSettings | None = Field(
        None, description="long-range messages in addition to those along edges"
    )


class SchNet(Network):
    """SchNet network.

    Args:
        settings: see `SchNetSettings`.
    Raises:
        InputError: the tag embedding takes all channels.
    """

    def __init__(self, settings: SchNetSettings) -> None:
        super().__init__()
        s = settings
        self.cutoff, self.max_neighbors, self.n_elements = s.cutoff, s.max_neighbors, s.n_elements
        if s.tag_hidden_channels >= s.hidden_channels:
            raise InputError(
                f"tag_hidden_channels={s.tag_hidden_channels} leaves no channels for elements"
                f" (hidden_channels={s.hidden_channels}); make it smaller"
            )
        self.element = nn.Embedding(s.n_elements, s.hidden_channels - s.tag_hidden_channels)
        self.tag = nn.Embedding(N_TAGS, s.tag_hidden_channels) if s.tag_hidden_channels else None
        self.n_levels = s.n_levels
        self.level = nn.Embedding(s.n_levels, s.hidden_channels) if s.n_levels > 1 else None
        if self.level is not None:
            nn.init.zeros_(self.level.weight)  # all levels start equal
        self.basis = GaussianBasis(s.num_gaussians, s.cutoff)
        self.blocks = nn.ModuleList(
            SchNetInteraction(s.hidden_channels, s.num_filters, s.num_gaussians, s.message_scale)
            for _ in range(s.num_interactions)
        )
        self.first = nn.Linear(s.hidden_channels, s.hidden_channels // 2)
        self.last = nn.Linear(s.hidden_channels // 2, 1)
        self.reciprocal = s.ewald
        if s.ewald is not None:
            self.long_filter = EwaldFilter(s.ewald)
            self.long_blocks = nn.ModuleList(
                EwaldBlock(s.hidden_channels, s.ewald) for _ in range(s.num_interactions)
            )
        self.reset_parameters()

    def fold_level(self, number: int) -> None:
        """See `Network`."""
        if self.level is not None:
            vector, width = self.level.weight.detach()[number], self.element.embedding_dim
            with torch.no_grad():
                self.element.weight += vector[:width]
                if self.tag is not None:
                    self.tag.weight += vector[width:]
            self.level = None
        self.n_levels = 1

    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """Predict energies (n_systems,) of a batch."""
        index = inputs.index
        vector = inputs.edge_vec.index_select(0, index.first_of_pair)
        length = safe_lengths(vector)
        gaussians, envelope = self.basis(length), cosine_envelope(length, self.cutoff)[:, None]
        if inputs.edge_weight is not None:
            envelope = envelope * inputs.edge_weight.index_select(0, index.first_of_pair)
        hidden = self.element(inputs.numbers)
        if self.tag is not None:
            hidden = torch.cat([hidden, self.tag(inputs.tags)], dim=1)
        if self.level is not None:
            hidden = hidden + self.level(inputs.atom_levels)
        layers = [hidden]
        long_range = None if self.reciprocal is None else self.long_filter(inputs.waves)
        for k, block in enumerate(self.blocks):
            update = hidden + block(hidden, gaussians, envelope, index)
            hidden = (
                update
                if long_range is None
                else (update + self.long_blocks[k](hidden, long_range)) / math.sqrt(3.0)
            )
            layers.append(hidden)
        atoms = self.last(shifted_softplus(self.first(hidden))).squeeze(1)
        energy = atoms.new_zeros(inputs.n_systems).index_add(0, inputs.system_idx, atoms)
        return NetworkOutput(
            energy=energy, atom_energies=atoms, layers=tuple(layers), features=hidden
        )


class SchNetInteraction(nn.Module):
    """SchNetInteraction block: the update of node features by messages along edges.

    Args:
        width: number of node features.
        filters: number of filters.
        n_gaussians: number of radial functions.
        message_scale: factor on the summed messages.
    """

    def __init__(self, width: int, filters: int, n_gaussians: int, message_scale: float) -> None:
        super().__init__()
        self.message_scale = message_scale
        self.filter_first = nn.Linear(n_gaussians, filters)
        self.filter_last = nn.Linear(filters, filters)
        self.down = nn.Linear(width, filters, bias=False)
        self.up = nn.Linear(filters, width)
        self.last = nn.Linear(width, width)

    def forward(
        self, hidden: Tensor, gaussians: Tensor, envelope: Tensor, index: EdgeIndex
    ) -> Tensor:
        """Compute the update (n_atoms, width), to be added to `hidden`.

        Args:
            hidden: (n_atoms, width) node features.
            gaussians: (n_pairs, n_gaussians) radial functions of the distances.
            envelope: (n_pairs, 1) cutoff envelope.
            index: senders and receivers of the edges.
        """
        filters = self.filter_last(shifted_softplus(self.filter_first(gaussians))) * envelope
        summed = convolve(filters, self.down(hidden), index) * self.message_scale
        return self.last(shifted_softplus(self.up(summed)))
