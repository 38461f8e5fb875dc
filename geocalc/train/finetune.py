"""Fine-tuning: a run that begins with a trained model, on data of one's own."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geocalc.core import elements
from geocalc.core.settings import read_yaml
from geocalc.data.collate import collate_samples
from geocalc.data.prepare import is_validation
from geocalc.data.read import locate, relaxation_name, structures_of
from geocalc.data.settings import Data, DataSource
from geocalc.data.store import Sample
from geocalc.errors import DataWarning, InputError, RecipeError
from geocalc.potentials.card import EnergyKind, Task
from geocalc.potentials.network import EnergyModel, ForceMode, NetworkPotential
from geocalc.potentials.registry import find_model, load_model
from geocalc.train.recipe import Recipe, Start, single_frame
from geocalc.train.references import seen_numbers

# training samples behind the references; more change them by less than the model is wrong
N_FITTED = 400
BATCH = 16
FEW_GROUPS, FEW_FRAMES = 10, 50
# what a network is shown of a structure
SEEN = ("drop_subsurface", "adsorbate_edges", "supernodes")
# relaxations that say as much of a zero of adsorption energies as the model: its zeros are good to
# a fifth of its errors
HOLD = 25.0
PASSES, FEWEST, MOST = 30, 100, 3000  # times that a structure is seen, and bounds of the steps
# of relaxations that are held out, and splits that are tried until some are
SHARE, N_SALTS = 0.2, 100
RECIPE = "recipe.yaml"
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
# chosen by hand on relaxations on palladium that workflows/fine-tuning does not measure on


def tuned_values(model: str, data: Path) -> dict[str, Any]:
    """What a recipe would say that goes on with a model on a file of labeled structures.

    Energies are taken for total energies of whatever made them: the references are fitted anew, and
    the kind is `total`. Steps grow with the number of structures. The energies of fewer than
    `FEW_GROUPS` relaxations move the references alone, since a network learns so few numbers by
    heart; it learns slowly from their forces.

    Args:
        model: name or folder, of energies and forces.
        data: file or folder that `geocalc train` reads.
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
    if loaded.card.other_levels:
        raise InputError(
            f"{loaded.card.name} answers at several levels of theory; fine-tune a model of one"
            " level"
        )
    old = read_yaml(path)
    finish = old["training"].get("final_stage") or {}
    kept = {
        name: old["training"][name]
        for name in ("energy_weight", "force_weight", "freeze")
        if name in old["training"]
    }
    frames_there, groups = _amount(data)
    source = {"path": str(data)}
    sized: dict[str, Any] = {
        "steps": min(max(FEWEST, PASSES * frames_there // TRAINING["batch_size"]), MOST)
    }
    if len(groups) < FEW_GROUPS:
        sized |= FEW
    frames = finish.get("frames", old["training"].get("frames", "stochastic"))
    return {
        "name": f"{loaded.card.name}-tuned",
        "start": {"model": str(model), "hash": loaded.hash},
        "about": {
            "energy_kind": "total",
            "level_of_theory": f"that of {data.name}",
            "reference_text": f"those of {data.name}",
            "domain": f"structures like those of {data.name}",
            "data": [*old["about"].get("data", []), f"{data.name}, for fine-tuning"],
        },
        "model": old["model"],
        "data": {
            "sources": [source],
            "validation_fraction": SHARE,
            "split_seed": _salt(groups, source),
            "images_per_group": 1000,
        },
        "fitted_references": {"elements": []},
        "training": {**kept, **TRAINING, **sized, "frames": frames},
    }


def _amount(data: Path) -> tuple[int, frozenset[str]]:
    """Structures, as many as count for `MOST` steps, and the names of the relaxations among them."""
    enough, path = -(-MOST * TRAINING["batch_size"] // PASSES), locate(data)
    found = list(islice(structures_of(path), enough))
    return len(found), frozenset(relaxation_name(one, DataSource(path=data), path) for one in found)


def _salt(groups: frozenset[str], source: dict[str, str]) -> str:
    """The first salt of the split that holds out some relaxations and not all, which with a few of
    them not every salt does.
    """
    plain = Data.model_validate({"sources": [source], "validation_fraction": SHARE})
    for number in range(N_SALTS if len(groups) > 1 else 0):
        split = (
            plain.model_copy(update={"split_seed": f"{plain.split_seed}-{number}"})
            if number
            else plain
        )
        if 0 < sum(is_validation(group, split) for group in groups) < len(groups):
            return split.split_seed
    return plain.split_seed


def begin_with(recipe: Recipe, start: Start, training: Sequence[Sample]) -> EnergyModel:
    """The model that a run begins with: trained weights and scales, references fitted to what the
    model misses of the energies.

    Args:
        recipe: whose `model` is that of the trained one.
        start: which.
        training: samples, energies in eV.
    Raises:
        RecipeError: the network is another one.
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
    same = (
        "architecture",
        "settings",
        "canonicalizer",
        "reads_tags",
        "force_mode",
        "repulsion_reach",
        "graph",
    )
    differing = [
        name for name in (*same, *SEEN) if getattr(card, name) != getattr(recipe.model, name)
    ]
    if differing or card.task is not recipe.task:
        raise RecipeError(
            f"the recipe's model.{differing[0] if differing else 'task'} is not that of"
            f" {card.name}, with which it is to start; leave the model as it is"
        )
    _warn_of_little(training)
    model.requires_grad_(True).train()
    held = recipe.about.energy_kind is EnergyKind.ADSORPTION
    model.references += torch.from_numpy(_missed(model, recipe, training, held))
    return model


def _missed(
    model: EnergyModel, recipe: Recipe, training: Sequence[Sample], held: bool
) -> np.ndarray:
    """Per-element energies (1, 119) that fit best what the model misses, eV; the smallest of all
    that fit equally well.

    A relaxation counts once, however many frames it has. With `held` (energies of adsorption, whose
    zero is the same everywhere) an energy is expected to be far smaller than the model's error of
    one relaxation, so that a few relaxations cannot move it far.
    """
    some = training[:: -(-len(training) // N_FITTED)]
    names = recipe.fitted_references.elements
    potential = NetworkPotential(
        model=model, policy=single_frame(recipe.model), force_mode=ForceMode.NONE
    )
    told = [
        potential(collate_samples(some[k : k + BATCH])[0]).energy.numpy()
        for k in range(0, len(some), BATCH)
    ]
    drop = model.rewiring.drop_subsurface
    present = sorted({int(z) for s in training for z in seen_numbers(s, drop)})
    chosen = [z for z in present if not names or elements.symbols()[z] in names]
    counts = np.array(
        [[np.count_nonzero(seen_numbers(s, drop) == z) for z in chosen] for s in some], dtype=float
    )
    frames = Counter(s.group for s in some)
    weight = np.array([frames[s.group] for s in some]) ** -0.5
    missing = np.array([s.energy for s in some]) - np.concatenate(told)
    prior = np.eye(len(chosen)) * (HOLD**0.5 if held else 0.0)
    table = np.zeros((1, elements.N_ELEMENTS + 1))
    if chosen:
        rows = np.concatenate([counts * weight[:, None], prior])
        table[0, chosen] = np.linalg.lstsq(
            rows, np.concatenate([missing * weight, np.zeros(len(chosen))]), rcond=None
        )[0]
    return table


def _warn_of_little(training: Sequence[Sample]) -> None:
    groups = len({s.group for s in training})
    if groups < FEW_GROUPS or len(training) < FEW_FRAMES:
        warnings.warn(
            f"there are {len(training)} frames of {groups} relaxations to learn from; with so few,"
            " errors on other structures may be several times those on the held-out ones: compare"
            " with DFT before you rely on it",
            DataWarning,
            stacklevel=3,
        )
