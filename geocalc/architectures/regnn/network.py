"""REGNN, the relaxed equivariant GNN: gated message passing on e3nn's irreps with learnable
symmetry breaking.

With `l_relaxed: 0` it is an ordinary equivariant network. Otherwise a tensor theta in every layer
can single out directions relative to the axes of the frame: those of the file with the frame policy
`none`, those of the cell with `single` or `averaged`.

Source: Hofgard et al., arXiv 2407.20471 (2024).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput
from geocalc.core.lengths import safe_lengths
from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.nn.basis import GaussianBasis, polynomial_envelope
from geocalc.nn.embedding import AtomEmbedding
from geocalc.nn.relaxed_weights import theta_penalty

if TYPE_CHECKING:
    from geocalc.architectures.regnn.convolution import Kinds


class REGNNSettings(Settings):
    """Settings of `REGNN`; lengths in Angstrom, features as e3nn writes irreps."""

    cutoff: float = Field(5.0, gt=0)
    max_neighbors: int | None = Field(None, ge=1)
    features: str = Field(
        "32x0e + 16x1o + 8x2e", description="irreps of atoms between layers; some must be 0e"
    )
    num_layers: int = Field(2, ge=1)
    l_harmonics: int = Field(2, ge=0, le=6, description="highest degree of the spherical harmonics")
    l_relaxed: int = Field(
        2, ge=0, le=6, description="highest degree of relaxed weights; 0 for an equivariant network"
    )
    copies: int = Field(1, ge=1, description="copies of each irrep of the relaxed weights")
    num_gaussians: int = Field(16, ge=2)
    radial_hidden: int = Field(32, ge=1)
    num_radial: int = Field(
        8, ge=1, description="number of radial features; every path has a linear combination"
    )
    neighbors: float = Field(
        40.0,
        gt=0,
        description="typical number of neighbors; sums over them are divided by its root",
    )
    correlation: int = Field(
        1,
        ge=1,
        description="largest number of messages of an atom that are multiplied, in all layers but"
        " the last; 2 adds angles, 3 dihedral angles",
    )
    product_channels: int = Field(32, ge=1, description="channels of the products of messages")
    hidden_channels: int = Field(
        64, ge=2, description="width of the atom embedding, before the first 0e features"
    )
    tag_hidden_channels: int = Field(0, ge=0)
    pg_hidden_channels: int = Field(
        8, ge=0, description="width of the period and of the group embedding"
    )
    phys_embeds: bool = Field(
        True, description="embed physical properties of elements, which helps for rare elements"
    )
    n_elements: int = Field(119, ge=2, le=119)
    n_levels: int = Field(1, ge=1, description="levels of theory")


class REGNN(Network):
    """REGNN network.

    Args:
        settings: see `REGNNSettings`.
    Raises:
        InputError: the irreps of features cannot be parsed, have no 0e, or no path leads to one of
            them.
    """

    def __init__(self, settings: REGNNSettings) -> None:
        from geocalc.architectures.regnn.blocks import read_irreps
        from geocalc.architectures.regnn.filters import RelaxedFilters, all_irreps
        from geocalc.architectures.regnn.layer import RelaxedLayer
        from geocalc.nn.irreps import o3

        super().__init__()
        s = settings
        self.cutoff, self.max_neighbors, self.n_elements = s.cutoff, s.max_neighbors, s.n_elements
        between = read_irreps(s.features)
        scalars = o3.Irreps([(copies, irrep) for copies, irrep in between if str(irrep) == "0e"])
        if not scalars.dim:
            raise InputError(
                f"features {s.features!r} have no 0e, which the energy needs; add some, such as"
                " 16x0e"
            )
        self.n_levels = s.n_levels
        self.embedding = AtomEmbedding(
            s.hidden_channels,
            s.tag_hidden_channels,
            s.pg_hidden_channels,
            s.phys_embeds,
            property_width=0,
            second_layer=False,
            n_elements=s.n_elements,
            compact_tables=False,
            n_levels=s.n_levels,
        )
        self.first = nn.Linear(s.hidden_channels, scalars.dim)
        self.basis = GaussianBasis(s.num_gaussians, s.cutoff)
        harmonics = o3.Irreps.spherical_harmonics(s.l_harmonics)
        self.harmonics = partial(
            o3.spherical_harmonics, harmonics, normalize=True, normalization="component"
        )
        self.layers = nn.ModuleList()
        before = scalars
        for number in range(s.num_layers):
            after = scalars if number == s.num_layers - 1 else between
            filters = RelaxedFilters(harmonics, all_irreps(s.l_relaxed, s.copies))
            self.layers.append(
                RelaxedLayer(
                    before,
                    after,
                    filters,
                    s.num_gaussians,
                    s.radial_hidden,
                    s.num_radial,
                    s.neighbors,
                    s.correlation if number < s.num_layers - 1 else 1,
                    s.product_channels,
                )
            )
            before = after
        self.readout = nn.Sequential(
            nn.Linear(scalars.dim, scalars.dim), nn.SiLU(), nn.Linear(scalars.dim, 1)
        )

    def penalty(self) -> Tensor:
        """Compute the group lasso of all relaxed weights, which pulls them towards equivariance."""
        return theta_penalty(self)

    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """Predict energies (n_systems,) of a batch, and their contributions of atoms."""
        index = inputs.index
        vector = inputs.edge_vec.index_select(0, index.first_of_pair)
        length = safe_lengths(vector)
        basis, envelope = self.basis(length), polynomial_envelope(length, self.cutoff)[:, None]
        if inputs.edge_weight is not None:
            envelope = envelope * inputs.edge_weight.index_select(0, index.first_of_pair)
        harmonics: Tensor = self.harmonics(inputs.edge_vec)
        kinds = self._embed(inputs)
        hidden: Tensor = self.layers[0](kinds, basis, envelope, harmonics, index)
        for layer in self.layers[1:]:
            hidden = layer(hidden, basis, envelope, harmonics, index)
        atoms = self.readout(hidden).squeeze(1)
        energy = atoms.new_zeros(inputs.n_systems).index_add(0, inputs.system_idx, atoms)
        return NetworkOutput(energy=energy, atom_energies=atoms, features=hidden)

    def _embed(self, inputs: NetworkInput) -> Kinds:
        """Compute the features before the first layer, once for each kind of atom."""
        from geocalc.architectures.regnn.convolution import Kinds

        known = torch.stack([inputs.numbers, inputs.tags, inputs.atom_levels])
        kinds, of_atoms = torch.unique(known, dim=1, return_inverse=True)
        return Kinds(self.first(self.embedding(kinds[0], kinds[1], kinds[2])), of_atoms)
