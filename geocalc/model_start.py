"""Warm starts from a model of relaxed structures: relaxations begin where it thinks that they end."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from geocalc.card import Task
from geocalc.errors import InputError, ModelFileError
from geocalc.registry import LoadedModel, load_model
from geocalc.systems import Systems, select


@dataclass(frozen=True)
class ModelStart:
    """A proposal for `geocalc.warm_start`: the displacements of a model; nothing for structures that the model refuses.

    Attributes:
        folder: of the model. hash: of its weights and settings.
    """

    folder: str
    hash: str

    def __call__(self, systems: Systems) -> Tensor:
        """See `geocalc.warm_start.Proposal`.

        Raises:
            ModelFileError: the model cannot be read any more, or is another one now.
        """
        model, alone = _opened(self.folder, self.hash), torch.eye(systems.n_systems, dtype=torch.bool)
        return torch.cat([_displacement(model, select(systems, systems, one.to(systems.cell.device))) for one in alone])


def model_start(name: str | os.PathLike[str]) -> ModelStart:
    """The proposal of the model of that name or folder.

    Raises:
        InputError: it predicts no displacements.
        ModelNotFoundError, ModelFileError: see `geocalc.load_model`.
    """
    model = load_model(name, device="cpu")
    if model.card.task is not Task.IS2RE or not model.card.settings.get("direct_forces"):
        raise InputError(
            f"{model.card.name} does not predict where atoms end, so no relaxation can start from it; choose a model of relaxed "
            "structures: see `geocalc models`"
        )
    return ModelStart(str(model.folder.resolve()), model.hash)


@lru_cache(maxsize=4)
def _opened(folder: str, expected: str) -> LoadedModel:
    model = load_model(folder, device="cpu", frames="cell")
    if model.hash != expected:
        raise ModelFileError(f"{folder} was changed while it was in use; run again to use the new model")
    return model


def _displacement(model: LoadedModel, systems: Systems) -> Tensor:
    """Displacements of one structure (n_atoms, 3), Angstrom."""
    nothing = torch.full_like(systems.positions, torch.nan)
    try:
        found = model(systems.to("cpu")).displacement
    except InputError:  # an element it does not know, or no adsorbate
        return nothing
    return nothing if found is None else found.to(nothing)
