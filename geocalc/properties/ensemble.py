"""Ensembles of property models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geocalc.properties.base import GraphInput, PropertyNetwork
from geocalc.properties.model import PropertyModel


class PropertyEnsemble(PropertyNetwork):
    """Mean of several models, in the unit of the property.

    Args:
        models: models of one architecture and settings, each with the mean and standard deviation
            of its training targets.
    """

    def __init__(self, models: Sequence[PropertyModel]) -> None:
        super().__init__()
        first = models[0].network
        self.level, self.n_types, self.n_targets = first.level, first.n_types, first.n_targets
        self.members = nn.ModuleList(models)

    def forward(self, inputs: GraphInput) -> Tensor:
        """Predict the mean; see `PropertyNetwork`."""
        return torch.stack([member(inputs) for member in self.members]).mean(0)


def together(models: Sequence[PropertyModel]) -> PropertyModel:
    """Combine models to an ensemble; a single model is returned unchanged."""
    if len(models) == 1:
        return models[0]
    ensemble = PropertyEnsemble(models)
    return PropertyModel(
        ensemble, torch.zeros(ensemble.n_targets), torch.ones(ensemble.n_targets)
    ).eval()
