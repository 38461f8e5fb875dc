"""Input features of nodes, and means over the nodes of each graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from geocalc.errors import InputError
from geocalc.properties.base import GraphInput


def node_features(
    inputs: GraphInput, n_types: int, n_features: int, one_hot: bool, dtype: torch.dtype
) -> Tensor:
    """Concatenate encoded node types and additional node features.

    Args:
        inputs: batch of graphs.
        n_types: number of node types of the network.
        n_features: number of additional features that the network expects.
        one_hot: whether each type is a column of its own; otherwise the type is one number.
        dtype: floating type of the weights.
    Returns:
        (n_nodes, n_types + n_features), or (n_nodes, 1 + n_features) without `one_hot`.
    Raises:
        InputError: a type is unknown, or the number of features differs from `n_features`.
    """
    types, features = inputs.types, inputs.features
    if types.shape[0] and not 0 <= int(types.min()) <= int(types.max()) < n_types:
        raise InputError(
            f"types of nodes run from {int(types.min())} to {int(types.max())}; the network knows 0"
            f" to {n_types - 1}: number types from 0 and set n_types to how many there are"
        )
    given = 0 if features is None else features.shape[1]
    if given != n_features:
        raise InputError(
            f"nodes come with {given} features, the network expects {n_features}: set"
            f" n_features={given}"
        )
    columns = functional.one_hot(types, n_types) if one_hot else types[:, None]
    if features is None:
        return columns.to(dtype)
    return torch.cat([columns.to(dtype), features.to(dtype)], dim=1)


def mean_per_graph(values: Tensor, inputs: GraphInput) -> Tensor:
    """Average over the nodes of each graph.

    Args:
        values: (n_nodes, width).
        inputs: batch of graphs.
    Returns:
        (n_graphs, width); zeros for a graph without nodes.
    """
    sums = values.new_zeros((inputs.n_graphs, values.shape[1])).index_add(
        0, inputs.graph_idx, values
    )
    counts = torch.bincount(inputs.graph_idx, minlength=inputs.n_graphs).clamp(min=1)
    return sums / counts[:, None]
