"""Graphs with known properties, batches of them, and rotations of batches."""

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
    """Graph with its features and the properties of its nodes or of itself.

    Attributes:
        name: name of the graph.
        types: (n_nodes,) int64.
        senders: (n_edges,) int64.
        receivers: (n_edges,) int64, ascending.
        edge_vec: (n_edges, 3) float32 from sender to receiver, or None.
        features: (n_nodes, n_features) float32, or None.
        targets: (n_nodes, n_targets) float32, or (1, n_targets) for properties of the graph.
        counted: (rows of `targets`,) bool, rows that enter the loss and the errors.
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
    """Batch of graphs with their targets.

    Attributes:
        inputs: input of a network.
        targets: (rows, n_targets).
        counted: (rows,) bool, rows that enter the loss and the errors.
    """

    inputs: GraphInput
    targets: Tensor
    counted: Tensor

    def to(self, device: torch.device) -> GraphBatch:
        """Copy the batch to another device."""
        return GraphBatch(
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            counted=self.counted.to(device),
        )


def collate_graphs(samples: Sequence[GraphSample]) -> GraphBatch:
    """Join samples into one batch, in order.

    Edge vectors and features must be present in all samples or in none.
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
    """Return the rotations and reflections of a cube, (48, 3, 3).

    They preserve a cubic periodic box.
    """
    matrices = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.zeros(3, 3)
            matrix[range(3), list(order)] = torch.tensor(signs)
            matrices.append(matrix)
    return torch.stack(matrices)


def rotate_graphs(batch: GraphBatch, matrices: Tensor) -> GraphBatch:
    """Rotate each graph by its own matrix.

    Args:
        batch: batch of graphs; targets are scalars and unchanged.
        matrices: (n_graphs, 3, 3) orthogonal.
    """
    inputs = batch.inputs
    if inputs.edge_vec is None:
        return batch
    own = matrices.to(inputs.edge_vec)[inputs.graph_idx[inputs.index.receivers]]
    return replace(
        batch, inputs=replace(inputs, edge_vec=torch.einsum("eij,ej->ei", own, inputs.edge_vec))
    )
