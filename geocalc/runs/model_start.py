"""Warm starts from a model of relaxed structures: relaxations begin where it thinks that they end."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.core.systems import Systems, select
from geocalc.errors import InputError
from geocalc.potentials.cached import DirectModel, direct_model
from geocalc.potentials.card import Task
from geocalc.potentials.load import load_model


@dataclass(frozen=True)
class ModelStart:
    """A proposal for `geocalc.relaxation.warm_start`: the displacements of a model; nothing for
    structures that the model refuses.
    """

    model: DirectModel

    def __call__(self, systems: Systems) -> Tensor:
        """See `geocalc.relaxation.warm_start.Proposal`.

        Raises:
            ModelFileError: the model cannot be read any more, or is another one now.
        """
        alone = torch.eye(systems.n_systems, dtype=torch.bool, device=systems.cell.device)
        return torch.cat(
            [_displacement(self.model, select(systems, systems, one)) for one in alone]
        )


def model_start(name: str | os.PathLike[str]) -> ModelStart:
    """The proposal of the model of that name or folder.

    Raises:
        InputError: it predicts no displacements.
        ModelNotFoundError, ModelFileError: see `geocalc.load_model`.
    """
    model = load_model(name, device="cpu")
    if model.card.task is not Task.IS2RE or not model.card.settings.get("direct_forces"):
        raise InputError(
            f"{model.card.name} does not predict where atoms end, so no relaxation can start from"
            " it; choose a model of relaxed structures: see `geocalc models`"
        )
    return ModelStart(direct_model(model))


def _displacement(model: DirectModel, systems: Systems) -> Tensor:
    """Displacements of one structure (n_atoms, 3), Angstrom."""
    nothing = torch.full_like(systems.positions, torch.nan)
    try:
        found = model.predict(systems).displacement
    except InputError:  # an element it does not know, or no adsorbate
        return nothing
    return nothing if found is None else found.to(nothing)
