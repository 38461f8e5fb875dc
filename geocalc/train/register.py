"""A finished run becomes a model folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save

from geocalc import elements
from geocalc.card import ModelCard, Task
from geocalc.errors import InputError
from geocalc.registry import CARD, WEIGHTS, write_card
from geocalc.train.checkpoint import COUNTERS, load_checkpoint
from geocalc.train.ema import WeightAverage
from geocalc.train.loop import build_model
from geocalc.train.prepare import prepare
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.store import Sample, read_store


def register(run: Path, name: str, folder: Path, data_folder: Path) -> Path:
    """Write the model folder `folder/name` from a run, with averaged weights.

    Args:
        run: folder of `geocalc train`. name: of the model. folder: where models are kept. data_folder: prepared data.
    Returns:
        The new folder: model.yaml, weights.safetensors, recipe.yaml, metrics.json, README.md.
    Raises:
        InputError: the run is unfinished, or the name is taken or is no plain name.
    """
    if not (run / "recipe.yaml").is_file() or not (run / "checkpoint" / COUNTERS).is_file():
        raise InputError(
            f"{run} is not a training run: it needs recipe.yaml and a checkpoint; give the folder of `geocalc train`"
        )
    recipe = read_recipe(run / "recipe.yaml")
    done = json.loads((run / "checkpoint" / COUNTERS).read_text())["step"]
    if done < recipe.training.steps:
        raise InputError(
            f"{run} has done {done} of {recipe.training.steps} steps; finish it with `geocalc train ... --resume` first"
        )
    if not name or Path(name).name != name:
        raise InputError(f"{name!r} cannot be a model name; use letters, digits and dashes")
    target = folder / name
    if (target / CARD).exists():
        raise InputError(f"a model named {name!r} is in {folder} already; choose another name or remove that folder")
    training = [s for s in read_store(prepare(recipe, data_folder)) if not s.validation]
    tensors = averaged_weights(recipe, training, run / "checkpoint")
    content = save(tensors)
    card = make_card(recipe, name, training, hashlib.sha256(content).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
        draft = Path(scratch) / name
        draft.mkdir()
        (draft / WEIGHTS).write_bytes(content)
        write_card(draft, card)
        shutil.copy(run / "recipe.yaml", draft / "recipe.yaml")
        shutil.copy(run / "metrics.json", draft / "metrics.json")
        (draft / "README.md").write_text(describe(card, json.loads((run / "metrics.json").read_text())))
        target.mkdir(exist_ok=True)
        for file in draft.iterdir():
            os.replace(file, target / file.name)
    return target


def averaged_weights(recipe: Recipe, training: list[Sample], checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state dict of the network with averaged parameters, float32."""
    network = build_model(recipe, training).network
    average = WeightAverage(network, recipe.training.ema_decay)
    load_checkpoint(checkpoint, network, torch.optim.AdamW(network.parameters()), average)
    network.load_state_dict(average.weights(), strict=False)
    return {key: value.detach().float().contiguous() for key, value in network.state_dict().items()}


def make_card(recipe: Recipe, name: str, training: list[Sample], digest: str) -> ModelCard:
    """The card of a trained recipe."""
    model = build_model(recipe, training)
    about = recipe.about
    present = sorted({int(z) for s in training for z in s.numbers})
    references = {elements.symbols()[z]: float(model.references[z]) for z in present if float(model.references[z]) != 0.0}
    return ModelCard(
        name=name,
        task=Task.S2EF,
        architecture=recipe.model.architecture,
        settings=recipe.model.settings,
        cutoff=model.network.cutoff,
        elements=tuple(elements.symbols()[z] for z in present),
        energy_kind=about.energy_kind,
        level_of_theory=about.level_of_theory,
        references=about.references,
        reference_energies=references,
        energy_scale=model.energy_scale,
        force_scale=model.force_scale,
        reads_tags=recipe.model.reads_tags,
        frames=recipe.model.frames,
        force_mode=recipe.model.force_mode,
        conservative=recipe.model.force_mode == "gradient",
        repulsion_reach=recipe.model.repulsion_reach,
        weights_sha256=digest,
        licence=about.licence,
        domain=about.domain,
        data=about.data,
        limits=about.limits,
    )


def describe(card: ModelCard, measured: dict[str, object]) -> str:
    """A first README for a model folder: what the card says, in words and one table."""
    lines = [
        f"# {card.name}",
        "",
        f"{card.architecture} potential; energies are {card.energy_kind.value} energies ({card.references}).",
        f"Level of theory: {card.level_of_theory}.",
        f"Domain: {card.domain}.",
        f"Elements: {' '.join(card.elements)}.",
        f"Forces: {card.force_mode}{' (exact gradient of the energy)' if card.conservative else ''}; frames: {card.frames}.",
        "",
        "## Errors on the validation split",
        "",
        "| source | frames | energy MAE (eV) | force MAE, free atoms (eV/A) | predicting zero force |",
        "|---|---|---|---|---|",
    ]
    for source, errors in measured.get("validation", {}).items():  # type: ignore[attr-defined]
        lines.append(
            f"| {source} | {errors['n']} | {errors['energy_mae']:.3f} | {errors['force_mae']:.4f} | {errors['force_null']:.4f} |"
        )
    lines += [
        "",
        "## Data",
        "",
        *(f"- {entry}" for entry in card.data),
        "",
        "## Limits",
        "",
        *(f"- {entry}" for entry in card.limits),
        "",
    ]
    return "\n".join(lines)
