"""Fine-tuning: training that begins with a trained model, on the user's data."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geocalc.architectures.catalog import ARCHITECTURES
from geocalc.core import elements
from geocalc.core.energies import EnergyKind
from geocalc.core.settings import read_yaml
from geocalc.data.collate import collate_samples
from geocalc.data.prepare import is_validation
from geocalc.data.read import locate, relaxation_name, structures_of
from geocalc.data.settings import Data, DataSource
from geocalc.data.store import Sample
from geocalc.errors import DataWarning, EnergyKindError, InputError, RecipeError
from geocalc.potentials.card import PotentialSettings, Task
from geocalc.potentials.load import load_model
from geocalc.potentials.network import EnergyModel, ForceMode, NetworkPotential, Scales
from geocalc.potentials.registry import find_model
from geocalc.train.recipe import Recipe, Start, single_frame
from geocalc.train.references import seen_numbers
from geocalc.train.settings import FineTuning

BATCH = 16  # structures that the model is evaluated on together, for the references
FEW_FRAMES = 50  # with fewer, a warning is given
# fraction of the relaxations that is held out, and seeds of the split that are tried until the
# fraction is neither none nor all of them
HELD_OUT, N_SEEDS = 0.2, 100
RECIPE = "recipe.yaml"
LEVEL = "level.weight"  # name of the weights that tell levels of theory apart
# Settings of training in a recipe made for a file of structures. Like the defaults of `FineTuning`
# they were chosen by hand on relaxations on palladium, other ones than workflows/fine-tuning
# measures on; a recipe names them all, so that they can be changed.
TRAINING: dict[str, Any] = {
    "batch_size": 8,
    "learning_rate": 3e-4,
    "warmup_fraction": 0.05,
    "ema_decay": 0.99,
    "final_stage": None,
    "substrate_weight": 0.0,
    "fixed_force_weight": 0.0,
    "evaluate_every": 500,
    "log_every": 50,
}
FEW: dict[str, Any] = {"energy_weight": 0.0, "learning_rate": 1e-4}


def tuned_values(
    model: str,
    data: Path,
    tuning: FineTuning = FineTuning(),  # noqa: B008  frozen
    group_key: str = DataSource.model_fields["group_key"].default,
) -> dict[str, Any]:
    """Make the recipe that fine-tunes a model on a file of labeled structures, as plain values.

    Energies are taken for total energies of the code that made them: the references are fitted
    anew, and the kind is `total`. Steps grow with the number of structures. The energies of a few
    relaxations change the references alone, since a network would memorize so few numbers; it
    learns slowly from their forces.

    Args:
        model: name or folder, of energies and forces.
        data: file or folder that `geocalc train` reads.
        tuning: choices that are not settings of training; the recipe holds them.
        group_key: info key of the relaxation of a structure.
    Raises:
        InputError: the model has no recipe, or is none of energies and forces; the data cannot be
            found or read.
        ModelNotFoundError, ModelFileError: see `geocalc.load_model`.
    """
    loaded = load_model(model, device="cpu")
    path = find_model(model) / RECIPE
    if loaded.card.task is not Task.S2EF or not path.is_file():
        raise InputError(
            f"{loaded.card.name} cannot be tuned on energies and forces; choose a model of task"
            " s2ef with a recipe"
        )
    old = read_yaml(path)
    finish = old["training"].get("final_stage") or {}
    kept = {
        name: old["training"][name]
        for name in ("energy_weight", "force_weight", "freeze")
        if name in old["training"]
    }
    source = {"path": str(data), "group_key": group_key}
    frames_there, groups = _amount(DataSource.model_validate(source), tuning)
    sized: dict[str, Any] = {
        "steps": min(
            max(tuning.min_steps, tuning.passes * frames_there // TRAINING["batch_size"]),
            tuning.max_steps,
        )
    }
    if len(groups) < tuning.few_relaxations:
        sized |= FEW
    frames = finish.get("frames", old["training"].get("frames", "stochastic"))
    return {
        "name": f"{loaded.card.name}-tuned",
        "start": {"model": str(model), "hash": loaded.hash},
        "finetuning": tuning.model_dump(mode="json"),
        "about": {
            "energy_kind": "total",
            "level_of_theory": f"that of {data.name}",
            "reference_text": f"those of {data.name}",
            "domain": f"structures like those of {data.name}",
            "data": [*old["about"].get("data", []), f"{data.name}, for fine-tuning"],
            "limits": [f"The settings of fine-tuning were chosen on {tuning.chosen_on}."],
        },
        "model": old["model"] | {"settings": _settings_at(old["model"]["settings"], 1)},
        "data": {
            "sources": [source],
            "validation_fraction": HELD_OUT,
            "split_seed": _split_seed(groups, source),
            "images_per_group": 1000,
        },
        "fitted_references": {"elements": []},
        "training": {**kept, **TRAINING, **sized, "frames": frames},
    }


def _amount(source: DataSource, tuning: FineTuning) -> tuple[int, frozenset[str]]:
    """Count the structures, up to the number at which steps no longer grow, and collect the names
    of their relaxations.
    """
    enough = -(-tuning.max_steps * TRAINING["batch_size"] // tuning.passes)
    path = locate(source.path)
    found = list(islice(structures_of(path), enough))
    return len(found), frozenset(relaxation_name(one, source, path) for one in found)


def _split_seed(groups: frozenset[str], source: dict[str, str]) -> str:
    """Find the first seed of the split that holds out some relaxations and not all; with few
    relaxations not every seed does.
    """
    plain = Data.model_validate({"sources": [source], "validation_fraction": HELD_OUT})
    for number in range(N_SEEDS if len(groups) > 1 else 0):
        split = (
            plain.model_copy(update={"split_seed": f"{plain.split_seed}-{number}"})
            if number
            else plain
        )
        if 0 < sum(is_validation(group, split) for group in groups) < len(groups):
            return split.split_seed
    return plain.split_seed


def begin_with(recipe: Recipe, start: Start, training: Sequence[Sample]) -> EnergyModel:
    """Load the model that a run begins with: trained weights and scales, and references fitted to
    the difference between the energies and its predictions.

    Args:
        recipe: whose `model` is that of the trained one.
        start: names the trained model.
        training: samples, energies in eV.
    Raises:
        RecipeError: the network is another one.
        EnergyKindError: the recipe is of adsorption energies, whose zero is that of the model, and
            the model gives energies of another kind.
        InputError: the model was changed since the run began.
        ModelNotFoundError, ModelFileError: see `geocalc.load_model`.
    """
    loaded = load_model(start.model, device="cpu")
    card, model = loaded.card, loaded.potential.model
    if loaded.hash != start.hash:
        raise InputError(
            f"the model {start.model} has the hash {loaded.hash}, the recipe says {start.hash}; it"
            " was changed, so start anew"
        )
    wanted, settings = recipe.model, _settings_at(card.settings, len(recipe.levels))
    differing = [
        name
        for name in PotentialSettings.model_fields
        if name != "frames"
        and getattr(wanted, name) != (settings if name == "settings" else getattr(card, name))
    ]
    if differing or card.task is not recipe.task:
        raise RecipeError(
            f"the recipe's model.{differing[0] if differing else 'task'} is not that of"
            f" {card.name}, with which it is to start; leave the model as it is"
        )
    tuning = recipe.finetuning or FineTuning()
    _warn_of_little(training, tuning)
    known = [level.level for level in card.levels]
    if max(len(known), len(recipe.levels)) > 1 and recipe.levels != tuple(known):
        model = _at_levels(model, known, recipe)
    model.requires_grad_(True).train()
    held = recipe.about.energy_kind is EnergyKind.ADSORPTION
    if held and card.energy_kind is not EnergyKind.ADSORPTION:
        raise EnergyKindError(
            f"{card.name} gives {card.energy_kind.value} energies and the recipe has adsorption"
            " energies, whose zero the fitted references must keep; start from a model of"
            " adsorption energies, or set about.energy_kind: total to fit the references again"
        )
    hold = tuning.reference_hold if held else 0.0
    levels = np.array(
        [-1 if level is None else level for level in recipe.energy_levels], dtype=np.int64
    )
    level_of = np.array([levels[sample.source] for sample in training])
    for level in range(len(recipe.levels)):
        there = np.flatnonzero(level_of == level)
        some = [training[int(k)] for k in there[:: -(-len(there) // tuning.reference_samples)]]
        model.references[level] += torch.from_numpy(_correction(model, recipe, level, some, hold))
    return model


def _settings_at(settings: dict[str, Any], n_levels: int) -> dict[str, Any]:
    """The settings of a network that knows so many levels of theory."""
    others = {name: value for name, value in settings.items() if name != "n_levels"}
    return others if n_levels == 1 else {**others, "n_levels": n_levels}


def _at_levels(model: EnergyModel, known: Sequence[str], recipe: Recipe) -> EnergyModel:
    """The model with the levels of a recipe: those that it knows by name as they are, new ones like
    its first.
    """
    origins = [known.index(name) if name in known else 0 for name in recipe.levels]
    old = model.network
    if len(origins) == 1:
        old.fold_level(origins[0])
    weights = old.state_dict()
    for name in weights:
        if name.endswith(LEVEL):
            weights[name] = weights[name][origins]
    kind = ARCHITECTURES[recipe.model.architecture]
    network = kind.build(kind.settings.model_validate(recipe.model.settings))
    missing, unknown = network.load_state_dict(weights, strict=False)
    for name in missing:  # what tells levels apart begins at zero
        network.state_dict()[name].zero_()
    if unknown or not all(name.endswith(LEVEL) for name in missing):
        raise RecipeError(
            f"the network of {recipe.name} has other weights than the one it is to start with:"
            f" {', '.join([*missing, *unknown][:3])}; leave model.settings as they are, but for"
            " n_levels"
        )
    scales = Scales(
        energy=model.energy_scale,
        forces=model.force_scale,
        references=model.references[origins],
    )
    return EnergyModel(
        network,
        scales,
        recipe.model.repulsion_reach,
        model.reads_tags,
        model.rewiring,
        model.displaces,
        model.graph,
    )


def _correction(
    model: EnergyModel,
    recipe: Recipe,
    level: int,
    some: Sequence[Sample],
    hold: float,
) -> np.ndarray:
    """Fit per-element energies (119,) in eV of a level to the difference between energies and
    predictions; of equally good fits the smallest.

    A relaxation counts once, however many frames it has. With a positive `hold` (adsorption
    energies, whose zero is the same everywhere) the fit is pulled towards zero with the weight of
    so many relaxations, so that a few relaxations cannot move it far.
    """
    names = recipe.level_elements[level]
    potential = NetworkPotential(
        model=model, policy=single_frame(recipe.model), force_mode=ForceMode.NONE, level=level
    )
    told = [
        potential(collate_samples(some[k : k + BATCH])[0]).energy.numpy()
        for k in range(0, len(some), BATCH)
    ]
    drop = model.rewiring.drop_subsurface
    present = sorted({int(z) for s in some for z in seen_numbers(s, drop)})
    chosen = [z for z in present if not names or elements.symbols()[z] in names]
    counts = np.array(
        [[np.count_nonzero(seen_numbers(s, drop) == z) for z in chosen] for s in some], dtype=float
    )
    frames = Counter(s.group for s in some)
    weight = np.array([frames[s.group] for s in some]) ** -0.5
    missing = np.array([s.energy for s in some]) - np.concatenate(told)
    prior = np.eye(len(chosen)) * hold**0.5
    table = np.zeros(elements.N_ELEMENTS + 1)
    if chosen:
        rows = np.concatenate([counts * weight[:, None], prior])
        table[chosen] = np.linalg.lstsq(
            rows, np.concatenate([missing * weight, np.zeros(len(chosen))]), rcond=None
        )[0]
    return table


def _warn_of_little(training: Sequence[Sample], tuning: FineTuning) -> None:
    groups = len({s.group for s in training})
    if groups < tuning.few_relaxations or len(training) < FEW_FRAMES:
        warnings.warn(
            f"there are {len(training)} frames of {groups} relaxations to learn from; with so few,"
            " errors on other structures may be several times those on the held-out ones: compare"
            " with DFT before you rely on it",
            DataWarning,
            stacklevel=3,
        )
