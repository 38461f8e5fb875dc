"""Oversmoothing of a network: mean average distance (MAD) between atom features, by depth.

    MAD = mean over pairs of atoms of 1 - h_i . h_j / (|h_i| |h_j|)

MAD lies between 0 (all features parallel) and 2; it is near zero where a network has oversmoothed.
Two sets of pairs are distinguished. `neighbors` are the edges of the network's graph; an edge to an
atom's own periodic image counts with distance 0, so that a supercell has the same MAD as its unit
cell. `all_pairs` are the pairs of different atoms of one structure. Atoms with a zero feature
vector have no direction and are in no pair.

Source: Chen et al., Measuring and Relieving the Over-smoothing Problem (AAAI 2020), whose mean
leaves out distances of 0; residual updates by layer as in Godwin et al., Simple GNN Regularisation
for 3D Molecular Property Prediction (ICLR 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from geocalc.core.systems import Systems
from geocalc.errors import InputError
from geocalc.frames.policy import FramePolicy
from geocalc.graphs.reduction import keep_atoms
from geocalc.graphs.strategies import make_graph
from geocalc.potentials.frame_averaging import mean_over_frames
from geocalc.potentials.network import EnergyModel, posed
from geocalc.structures.transforms import chunks


@dataclass(frozen=True, kw_only=True)
class LayerMad:
    """MAD at one depth, averaged over structures; None where no structure has a pair.

    Attributes:
        depth: number of preceding interactions; 0 is after the embedding.
        neighbors: MAD of the features over the edges of the graph.
        all_pairs: MAD of the features over all pairs of atoms.
        update_neighbors: MAD over edges of the update that this interaction adds to the features;
            None at depth 0.
        update_all_pairs: the same over all pairs; None at depth 0.
    """

    depth: int
    neighbors: float | None
    all_pairs: float | None
    update_neighbors: float | None
    update_all_pairs: float | None


def mean_average_distance(
    features: Tensor, system_idx: Tensor, n_systems: int, pairs: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Compute the mean cosine distance between the features of two atoms, for each structure.

    Args:
        features: (n_atoms, width).
        system_idx: (n_atoms,) int64, index of each atom's structure.
        n_systems: number of structures.
        pairs: both atoms of each pair, each (n_pairs,) int64, such as senders and receivers; None
            takes all pairs of different atoms of a structure, in linear time.
    Returns:
        (n_systems,) float64; NaN where a structure has no pair.
    """
    features = features.double()
    length = features.norm(dim=1, keepdim=True)
    points = (length > 0).squeeze(1)
    unit = torch.where(length > 0, features / length, 0.0)
    if pairs is not None:
        chosen = points[pairs[0]] & points[pairs[1]]
        first, second = pairs[0][chosen], pairs[1][chosen]
        owner, distance = system_idx[first], 1.0 - (unit[first] * unit[second]).sum(1)
        return _sums(distance, owner, n_systems) / torch.bincount(owner, minlength=n_systems)
    count = torch.bincount(system_idx[points], minlength=n_systems).double()
    total = _sums(unit, system_idx, n_systems)
    distance = count**2 - (total * total).sum(1)  # of all pairs; that of an atom with itself is 0
    return torch.where(count > 1, distance.clamp(min=0.0) / (count * (count - 1)), torch.nan)


def layer_mad(
    model: EnergyModel,
    systems: Systems,
    policy: FramePolicy,
    *,
    level: int = 0,
    seed: int = 0,
    batch: int = 32,
) -> list[LayerMad]:
    """Compute the MAD of a network's features after its embedding and after each interaction.

    Args:
        model: energy model with a network that returns its layers.
        systems: structures; atoms removed by the graph rewiring are in no pair.
        policy: frame averaging; MAD is averaged over the frames of a structure.
        level: index of the level of theory.
        seed: seed of the frames that a stochastic policy draws.
        batch: structures evaluated together.
    Returns:
        One entry per depth, starting with the embedding.
    Raises:
        InputError: there are no structures, or the network does not return its layers.
    """
    if systems.n_systems == 0:
        raise InputError("got an empty list of structures; give at least one structure")
    generator = torch.Generator().manual_seed(seed)
    parts = [
        _by_structure(model, some, policy, level, generator) for some in chunks(systems, batch)
    ]
    depths = [torch.cat(columns, dim=1) for columns in zip(*parts, strict=True)]
    return [LayerMad(depth=depth, **_means(values)) for depth, values in enumerate(depths)]


KINDS = ("neighbors", "all_pairs", "update_neighbors", "update_all_pairs")


def _by_structure(
    model: EnergyModel,
    systems: Systems,
    policy: FramePolicy,
    level: int,
    generator: torch.Generator,
) -> list[Tensor]:
    """Compute the four kinds of MAD of each structure, (4, n_systems), at each depth.

    The values are NaN for structures without pairs.
    """
    systems = systems.to(model.references.device)
    seen = keep_atoms(systems, model.rewiring.atoms(systems))
    nodes = model.rewiring.nodes(seen)
    seen = seen if nodes is None else nodes.systems
    graph = model.rewiring.edges(
        make_graph(seen, model.network.cutoff, model.network.max_neighbors, model.graph), seen
    )
    levels = torch.full_like(seen.counts, level)
    with torch.no_grad():
        inputs, frames, _ = posed(model, seen, graph, levels, policy, generator)
        layers = model.network(inputs).layers
    if layers is None:
        raise InputError(
            f"the network {type(model.network).__name__} gives no features by layer; measure a"
            " model of a single network"
        )

    def both(features: Tensor) -> list[Tensor]:
        pairs = (inputs.index.senders, inputs.index.receivers)
        found = [
            mean_average_distance(features, inputs.system_idx, inputs.n_systems, chosen)
            for chosen in (pairs, None)
        ]
        return [mean_over_frames(one, frames, seen.n_systems)[0] for one in found]

    unknown = torch.full(
        (2, seen.n_systems), torch.nan, dtype=torch.float64, device=seen.cell.device
    )
    updates = [unknown] + [torch.stack(both(after - before)) for before, after in pairwise(layers)]
    return [
        torch.cat([torch.stack(both(hidden)), update])
        for hidden, update in zip(layers, updates, strict=True)
    ]


def _means(values: Tensor) -> dict[str, float | None]:
    """Average each kind of MAD (4, n_systems) over the structures that have pairs."""
    means = [float(row.nanmean()) for row in values]
    return {
        kind: None if math.isnan(mean) else mean for kind, mean in zip(KINDS, means, strict=True)
    }


def _sums(values: Tensor, owner: Tensor, n: int) -> Tensor:
    return values.new_zeros((n, *values.shape[1:])).index_add_(0, owner, values)
