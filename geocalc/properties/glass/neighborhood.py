"""Neighbor graph of a glass configuration for networks.

In contrast to the edges of potentials, vectors point from the sender to the receiver, and a
particle may be its own neighbor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geocalc.errors import InputError
from geocalc.graphs.neighbors import search
from geocalc.properties.glass.configuration import GlassConfiguration

CUTOFF = 2.0  # sigma_AA; Bapst et al., Nature Physics 16, 448 (2020)


@dataclass(frozen=True, kw_only=True)
class Neighborhood:
    """Directed edges of one configuration, sorted by receiver, then by sender.

    Attributes:
        senders: (n_edges,) int64.
        receivers: (n_edges,) int64.
        edge_vec: (n_edges, 3) float64, sigma_AA, x_receiver - x_sender to the nearest image; zero
            for self-loops.
    """

    senders: Tensor
    receivers: Tensor
    edge_vec: Tensor


def build_neighborhood(
    configuration: GlassConfiguration, cutoff: float = CUTOFF, self_loops: bool = True
) -> Neighborhood:
    """Connect all pairs of particles within `cutoff`, in both directions.

    Args:
        configuration: positions and box.
        cutoff: sigma_AA; edges of exactly this length are left out.
        self_loops: whether each particle is also its own neighbor.
    Raises:
        InputError: `cutoff` is not positive, or more than half the box, so that the nearest image
            would not be unique.
    """
    box, positions = configuration.box, configuration.positions
    if not 0 < cutoff <= box.min() / 2:
        raise InputError(
            f"a cutoff of {cutoff:g} does not suit the box"
            f" {' x '.join(f'{length:g}' for length in box)} of {configuration.name}; it must be"
            " positive and no more than half the shortest edge"
        )
    edges = search(positions, np.diag(box), np.ones(3, dtype=bool), cutoff)
    senders, receivers = edges.senders, edges.receivers
    vectors = positions[receivers] - positions[senders] - edges.shifts * box
    if self_loops:
        every = np.arange(configuration.n_particles)
        senders, receivers = np.concatenate([senders, every]), np.concatenate([receivers, every])
        order = np.lexsort((senders, receivers))
        senders, receivers = senders[order], receivers[order]
        vectors = np.concatenate([vectors, np.zeros((len(every), 3))])[order]
    return Neighborhood(
        senders=torch.from_numpy(senders),
        receivers=torch.from_numpy(receivers),
        edge_vec=torch.from_numpy(vectors),
    )
