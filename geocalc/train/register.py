"""A finished run becomes a model folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from geocalc.core import elements
from geocalc.data.prepare import prepare_store
from geocalc.data.store import read_store
from geocalc.frames.policy import FramePick, frame_policy
from geocalc.potentials.card import Level, ModelCard, Task
from geocalc.potentials.network import EnergyModel, ForceMode
from geocalc.train.checkpoint import load_checkpoint
from geocalc.train.ensembles import (
    Member,
    calibration_of,
    check_belonging,
    held_out_errors,
    is_cross_validated,
    joined,
)
from geocalc.train.publish import ModelFiles, check_finished, check_name, check_run, publish
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.run import start_training
from geocalc.train.run_files import CHECKPOINT, METRICS, RECIPE
from geocalc.train.stopping import final_model


def register_model(run: Path | Sequence[Path], name: str, folder: Path, data_folder: Path) -> Path:
    """Write the model folder `folder/name` from a run, or from several that become an ensemble,
    with averaged weights.

    Args:
        run: folder of `geocalc train`, or several of one recipe that differ in their seeds or in
            what they hold out.
        name: of the model.
        folder: where models are kept.
        data_folder: prepared data.
    Returns:
        The new folder: model.yaml, weights.safetensors, recipe.yaml, metrics.json, README.md.
    Raises:
        InputError: a run is unfinished, the runs do not belong together, or the name is taken or is
            no plain name.
    """
    runs = [run] if isinstance(run, Path) else list(run)
    recipes = [_finished_recipe(one) for one in runs]
    check_belonging(runs, recipes)
    check_name(name, folder)
    members = [_trained(one, of, data_folder) for one, of in zip(runs, recipes, strict=True)]
    recipe, model, measured = recipes[0], joined(members), (runs[0] / METRICS).read_text()
    if len(members) > 1:
        errors = held_out_errors(members, model)
        how = {"members": len(members), "cross_validated": is_cross_validated(members)}
        measured = json.dumps({"validation": errors, **how}, indent=1) + "\n"
    content = save(
        {
            key: value.detach().float().contiguous()
            for key, value in model.network.state_dict().items()
        }
    )
    card = make_card(
        recipe, name, _elements(members), model, hashlib.sha256(content).hexdigest(), len(members)
    )
    if recipe.task is Task.IS2RE:
        card = card.model_copy(update={"calibration": calibration_of(members, model)})
    readme = describe(card, json.loads(measured))
    files = ModelFiles(
        weights=content, card=card, recipe=runs[0] / RECIPE, metrics=measured, readme=readme
    )
    return publish(folder, name, files)


def _finished_recipe(run: Path) -> Recipe:
    """The recipe of a run that has come to its end."""
    check_run(run)
    recipe = read_recipe(run / RECIPE)
    check_finished(run, recipe.training)
    return recipe


def _trained(run: Path, recipe: Recipe, data_folder: Path) -> Member:
    samples = read_store(prepare_store(recipe, data_folder))
    finished = start_training(recipe, samples.training)
    load_checkpoint(run / CHECKPOINT, finished.model.network, finished.optimizer, finished.average)
    return Member(
        run=run,
        recipe=recipe,
        model=final_model(finished, run, recipe.training.patience),
        samples=samples,
    )


def _elements(members: Sequence[Member]) -> list[int]:
    """Atomic numbers that a member has learned from."""
    return sorted(
        {int(z) for member in members for sample in member.samples.training for z in sample.numbers}
    )


def make_card(
    recipe: Recipe,
    name: str,
    present: Sequence[int],
    model: EnergyModel,
    digest: str,
    members: int = 1,
) -> ModelCard:
    """The card of a trained recipe; `present` are the atomic numbers it has learned from."""
    about = recipe.about
    random = frame_policy(recipe.model.frames).pick is FramePick.STOCHASTIC
    conservative = recipe.model.force_mode is ForceMode.GRADIENT and not random
    references = [
        {elements.symbols()[z]: energy for z in present if (energy := float(table[z])) != 0.0}
        for table in model.references
    ]
    return ModelCard(
        name=name,
        task=recipe.task,
        architecture=recipe.model.architecture,
        settings=recipe.model.settings,
        cutoff=model.network.cutoff,
        elements=tuple(elements.symbols()[z] for z in present),
        level=about.level,
        energy_kind=about.energy_kind,
        level_of_theory=about.level_of_theory,
        reference_text=about.reference_text,
        reference_energies=references[0],
        other_levels=tuple(
            Level(**other.model_dump(exclude={"elements"}), reference_energies=energies)
            for other, energies in zip(recipe.other_levels, references[1:], strict=True)
        ),
        energy_scale=model.energy_scale,
        force_scale=model.force_scale,
        reads_tags=recipe.model.reads_tags,
        graph=recipe.model.graph,
        drop_subsurface=recipe.model.drop_subsurface,
        adsorbate_edges=recipe.model.adsorbate_edges,
        supernodes=recipe.model.supernodes,
        frames=recipe.model.frames,
        canonicalizer=recipe.model.canonicalizer,
        force_mode=recipe.model.force_mode,
        conservative=conservative,
        repulsion_reach=recipe.model.repulsion_reach,
        members=members,
        weights_sha256=digest,
        license=about.license,
        domain=about.domain,
        data=about.data,
        limits=about.limits,
    )


_PREDICTS = {
    Task.S2EF: "energies and forces of a structure",
    Task.IS2RE: "energies and positions after relaxation, from the unrelaxed structure",
}
_TABLES = {
    Task.S2EF: (
        (
            "| source | frames | energy MAE (eV) | force MAE, free atoms (eV/A) | predicting zero"
            " force |"
        ),
        "|---|---|---|---|---|",
    ),
    Task.IS2RE: (
        (
            "| source | structures | energy MAE (eV) | position MAE, free atoms (A) | leaving atoms"
            " where they are |"
        ),
        "|---|---|---|---|---|",
    ),
}


def describe(card: ModelCard, measured: dict[str, Any]) -> str:
    """A first README for a model folder: what the card says, in words and one table."""
    lines = [
        f"# {card.name}",
        "",
        (
            f"{card.architecture}, {_PREDICTS[card.task]}; energies are {card.energy_kind.value}"
            f" energies ({card.reference_text})."
        ),
        f"Level of theory: {card.level_of_theory}.",
        f"Domain: {card.domain}.",
        f"Elements: {' '.join(card.elements)}.",
        (
            "Forces:"
            f" {card.force_mode}{' (exact gradient of the energy)' if card.conservative else ''};"
            f" frames: {card.frames}."
        ),
        "",
        "## Errors on the validation split",
        "",
        *_TABLES[card.task],
    ]
    columns = (
        ("position_mae", "position_null")
        if card.task is Task.IS2RE
        else ("force_mae", "force_null")
    )
    for source, errors in measured.get("validation", {}).items():
        energy = f"{errors['energy_mae']:.3f}" if "energy_mae" in errors else "forces only"
        vectors = " | ".join(
            f"{errors[name]:.4f}" if name in errors else "none" for name in columns
        )
        lines.append(f"| {source} | {errors['n']} | {energy} | {vectors} |")
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
