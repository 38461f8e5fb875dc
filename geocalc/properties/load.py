"""Models of properties by name: from a model folder to predictions."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from geocalc.core.devices import choose_device
from geocalc.errors import InputError, ModelFileError, RecipeError
from geocalc.potentials.registry import CARD, Installed, find_model, read_card, read_weights
from geocalc.properties.card import PropertyCard
from geocalc.properties.ensemble import together
from geocalc.properties.glass.configuration import configuration_of
from geocalc.properties.glass_graphs import glass_graph, labeled
from geocalc.properties.model import PropertyModel
from geocalc.properties.recipe import build_network
from geocalc.properties.task import predict_graph


@dataclass(frozen=True, kw_only=True)
class LoadedPropertyModel(Installed[PropertyCard]):
    """A model of a property, ready for use.

    Attributes:
        model: predicts the property of graphs.
        device: the device that it computes on.
    """

    model: PropertyModel
    device: torch.device

    def __call__(self, atoms: Atoms) -> np.ndarray:
        """Predict the property of every particle of a configuration, (n_atoms, n_targets) float64,
        in the unit of the card.

        Particles of types that the model was not trained for have NaN.

        Raises:
            InputError: the structure is not a configuration that the model can take, or the model
                is one of molecules.
        """
        if self.card.graph is None:
            raise InputError(
                f"{self.card.name} reads molecules with bonds, not configurations of particles"
            )
        configuration = configuration_of(atoms)
        edges = glass_graph(configuration, self.card.graph, None)
        empty = torch.zeros(configuration.n_particles, self.card.n_targets)
        sample = labeled(configuration, edges, empty, self.card.counted)
        return np.where(
            sample.counted.numpy()[:, None], predict_graph(self.model, sample, self.device), np.nan
        )


def load_property_model(
    name: str | os.PathLike[str], *, device: str = "auto"
) -> LoadedPropertyModel:
    """Load a model of a property by name or path; no code of its folder is run.

    Args:
        name: a name from `geocalc models`, or the path of a model folder.
        device: auto, cpu, cuda or cuda:1.
    Raises:
        ModelNotFoundError: nothing of that name.
        ModelFileError: the folder is damaged, or holds a model of energies.
        InputError: unknown device.
    """
    folder = find_model(name)
    card = read_card(folder, PropertyCard)
    tensors, n = read_weights(folder, card), card.n_targets
    try:
        networks = [build_network(card, str(folder / CARD)) for _ in range(card.members)]
        model = together(
            [PropertyModel(network, torch.zeros(n), torch.ones(n)) for network in networks]
        )
        model.load_state_dict(tensors)
    except (RecipeError, RuntimeError) as error:
        raise ModelFileError(
            f"the weights of {card.name} do not fit its card: {' '.join(str(error).split())}"
        ) from None
    target = choose_device(device)
    return LoadedPropertyModel(
        card=card, model=model.to(target).eval().requires_grad_(False), folder=folder, device=target
    )
