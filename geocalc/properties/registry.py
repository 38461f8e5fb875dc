"""Models of properties: from a run to a folder, and from a folder to predictions."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from safetensors.torch import save

from geocalc.errors import InputError, ModelFileError, RecipeError
from geocalc.potentials.registry import (
    CARD,
    WEIGHTS,
    card_values,
    choose_device,
    find_model,
    is_property,
    read_weights,
)
from geocalc.properties.card import PropertyCard
from geocalc.properties.data import Split, read_split
from geocalc.properties.describe import SINGLE, TOGETHER, property_model_page
from geocalc.properties.ensemble import together
from geocalc.properties.glass.configuration import configuration_of
from geocalc.properties.glass_graphs import glass_graph, labeled
from geocalc.properties.model import PropertyModel
from geocalc.properties.recipe import (
    GlassData,
    PropertyModelSettings,
    PropertyRecipe,
    build_network,
    read_property_recipe,
)
from geocalc.properties.task import (
    VALIDATION,
    errors_per_target,
    named,
    predict_graph,
    start_property,
)
from geocalc.train.checkpoint import load_checkpoint
from geocalc.train.publish import ModelFiles, check_finished, check_name, check_run, publish
from geocalc.train.run_files import CHECKPOINT, METRICS, RECIPE
from geocalc.train.stopping import final_model

_BELONGS = ("task", "about", "model", "data")  # what runs of one model have in common
_HELD_OUT = ("training", "validation", "test", "fold")  # but for these parts of `data`


@dataclass(frozen=True, kw_only=True)
class LoadedPropertyModel:
    """A model of properties, ready for use."""

    card: PropertyCard
    model: PropertyModel
    folder: Path
    device: torch.device

    def __call__(self, atoms: Atoms) -> np.ndarray:
        """The property of every particle of a configuration, (n_atoms, n_targets) float64, in the
        unit of the card.

        Particles of types that it was not learned for have NaN.

        Raises:
            InputError: the structure is no configuration that the model can take, or the model is
                one of molecules.
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
    """Load a model of properties by name or path; runs no code from its folder.

    Args:
        name: a name from `geocalc models`, or the path of a model folder.
        device: auto, cpu, cuda or cuda:1.
    Raises:
        ModelNotFoundError: nothing of that name. ModelFileError: the folder is damaged, or holds a
            model of energies.
        InputError: unknown device.
    """
    folder = find_model(name)
    card = read_property_card(folder)
    tensors = read_weights(folder / WEIGHTS, card.name, card.weights_sha256)
    settings, n = (
        PropertyModelSettings(architecture=card.architecture, settings=card.settings),
        card.n_targets,
    )
    try:
        networks = [build_network(settings, str(folder / CARD)) for _ in range(card.members)]
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


def read_property_card(folder: Path) -> PropertyCard:
    """The card in a model folder.

    Raises:
        ModelFileError: it is missing, damaged, of a newer schema, or of a model of energies.
    """
    values = card_values(folder)
    if not is_property(values):
        raise ModelFileError(
            f"{values.get('name', folder.name)} is a model of energies; GeoCalc({str(folder)!r})"
            " loads it"
        )
    try:
        return PropertyCard.parse(values, str(folder / CARD))
    except RecipeError as error:
        raise ModelFileError(str(error)) from None


def register_property(runs: Sequence[Path], name: str, folder: Path, data_folder: Path) -> Path:
    """Write the model folder `folder/name` from a run, or from several whose mean becomes the
    model, with averaged weights.

    Args:
        runs: folders of `geocalc train`, of recipes that differ in seeds and in what is held out at
            most.
        name: of the model.
        folder: where models are kept.
        data_folder: where what is computed from the data is kept.
    Raises:
        InputError: a run is unfinished, the runs do not belong together, or the name is taken or is
            no plain name.
    """
    recipes = [_finished_recipe(run) for run in runs]
    for run, recipe in zip(runs, recipes, strict=True):
        differing = [
            part for part in _BELONGS if _common(recipe, part) != _common(recipes[0], part)
        ]
        if differing:
            raise InputError(
                f"{run} and {runs[0]} differ in `{differing[0]}` of their recipes; runs of one"
                " recipe make a model, and differ in seeds or in what they hold out"
            )
    check_name(name, folder)
    splits = [read_split(recipe.data, data_folder) for recipe in recipes]
    model = together(
        [
            _trained(run, recipe, split)
            for run, recipe, split in zip(runs, recipes, splits, strict=True)
        ]
    )
    content = save(
        {key: value.detach().float().contiguous() for key, value in model.state_dict().items()}
    )
    card, measured = (
        _card(recipes[0], name, model, hashlib.sha256(content).hexdigest(), len(runs)),
        _measured(runs),
    )
    # no network has seen what is held out
    if len(runs) > 1 and all(recipe.data == recipes[0].data for recipe in recipes):
        errors = errors_per_target(model, splits[0].validation, torch.device("cpu"))
        measured |= {VALIDATION: {VALIDATION: named(errors)}, "of": TOGETHER}
    readme = property_model_page(card, measured[VALIDATION][VALIDATION], measured.get("of"))
    metrics = json.dumps(measured, indent=1) + "\n"
    return publish(
        folder,
        name,
        ModelFiles(
            weights=content, card=card, recipe=runs[0] / RECIPE, metrics=metrics, readme=readme
        ),
    )


def _common(recipe: PropertyRecipe, part: str) -> Any:
    """A part of a recipe without what it holds out."""
    values = recipe.model_dump(mode="json")[part]
    return (
        {key: value for key, value in values.items() if key not in _HELD_OUT}
        if part == "data"
        else values
    )


def _measured(runs: Sequence[Path]) -> dict[str, Any]:
    """What the runs measured on what each of them held out; of several, the means."""
    found = [json.loads((run / METRICS).read_text()) for run in runs]
    if len(found) == 1:
        return dict(found[0])
    errors = [one[VALIDATION][VALIDATION] for one in found]
    names = [name for name in errors[0] if all(name in one for one in errors)]
    means = {name: math.fsum(one[name] for one in errors) / len(errors) for name in names}
    return {VALIDATION: {VALIDATION: means}, "members": len(runs), "of": SINGLE}


def _finished_recipe(run: Path) -> PropertyRecipe:
    check_run(run)
    recipe = read_property_recipe(run / RECIPE)
    check_finished(run, recipe.training)
    return recipe


def _trained(run: Path, recipe: PropertyRecipe, split: Split) -> PropertyModel:
    finished = start_property(recipe, split.training)
    load_checkpoint(run / CHECKPOINT, finished.model.network, finished.optimizer, finished.average)
    return final_model(finished, run, recipe.training.patience)


def _card(
    recipe: PropertyRecipe, name: str, model: PropertyModel, digest: str, members: int
) -> PropertyCard:
    glass = recipe.data if isinstance(recipe.data, GlassData) else None
    return PropertyCard(
        name=name,
        task=recipe.task,
        target=recipe.about.target,
        unit=recipe.about.unit,
        n_targets=len(model.mean),
        architecture=recipe.model.architecture,
        settings=recipe.model.settings,
        members=members,
        graph=None if glass is None else glass.graph,
        counted=() if glass is None else glass.counted,
        weights_sha256=digest,
        license=recipe.about.license,
        domain=recipe.about.domain,
        data=recipe.about.data,
        limits=recipe.about.limits,
    )
