"""Graphs with known properties, and batches of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocalc.nn.edges import EdgeIndex
from geocalc.properties.base import GraphInput


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphSample:
    """A graph, and what is known of its nodes or of itself.

    Attributes:
        name: of the graph.
        types: (n_nodes,) int64.
        senders, receivers: (n_edges,) int64, sorted by receiver.
        edge_vec: (n_edges, 3) float32 from sender to receiver, or None.
        features: (n_nodes, n_features) float32, or None.
        targets: (n_nodes, n_targets) float32, or (1, n_targets) of the graph.
        counted: rows of `targets` that are learned and judged, bool.
    """

    name: str
    types: Tensor
    senders: Tensor
    receivers: Tensor
    edge_vec: Tensor | None = None
    features: Tensor | None = None
    targets: Tensor
    counted: Tensor


@dataclass(frozen=True, kw_only=True)
class GraphBatch:
    """Graphs side by side, with their targets.

    Attributes:
        inputs: what a network sees.
        targets: (rows, n_targets).
        counted: (rows,) bool.
    """

    inputs: GraphInput
    targets: Tensor
    counted: Tensor

    def to(self, device: torch.device) -> GraphBatch:
        """The same batch on another device."""
        return GraphBatch(
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            counted=self.counted.to(device),
        )


def collate_graphs(samples: Sequence[GraphSample]) -> GraphBatch:
    """Join samples into one batch, in order; either all of them have edge vectors and features, or
    none.
    """
    counts = torch.tensor([len(sample.types) for sample in samples])
    starts = (counts.cumsum(0) - counts).tolist()
    senders = torch.cat(
        [sample.senders + start for sample, start in zip(samples, starts, strict=True)]
    )
    receivers = torch.cat(
        [sample.receivers + start for sample, start in zip(samples, starts, strict=True)]
    )
    inputs = GraphInput(
        types=torch.cat([sample.types for sample in samples]),
        graph_idx=torch.repeat_interleave(torch.arange(len(samples)), counts),
        n_graphs=len(samples),
        index=EdgeIndex.build(senders, receivers, int(counts.sum())),
        edge_vec=_joined([sample.edge_vec for sample in samples]),
        features=_joined([sample.features for sample in samples]),
    )
    return GraphBatch(
        inputs=inputs,
        targets=torch.cat([sample.targets for sample in samples]),
        counted=torch.cat([sample.counted for sample in samples]),
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def signed_permutations() -> Tensor:
    """The rotations and reflections of a cube, (48, 3, 3): those that leave a cubic periodic box as
    it is.
    """
    matrices = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.zeros(3, 3)
            matrix[range(3), list(order)] = torch.tensor(signs)
            matrices.append(matrix)
    return torch.stack(matrices)


def rotate_graphs(batch: GraphBatch, matrices: Tensor) -> GraphBatch:
    """The batch with each graph turned by a matrix of its own, (n_graphs, 3, 3); targets are
    scalars and stay.
    """
    inputs = batch.inputs
    if inputs.edge_vec is None:
        return batch
    own = matrices.to(inputs.edge_vec)[inputs.graph_idx[inputs.index.receivers]]
    return replace(
        batch, inputs=replace(inputs, edge_vec=torch.einsum("eij,ej->ei", own, inputs.edge_vec))
    )
