"""Register models of energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from geocalc.core import elements
from geocalc.data.prepare import prepare_store
from geocalc.data.store import Samples, read_store
from geocalc.frames.policy import FramePick, frame_policy
from geocalc.potentials.card import About, Level, LevelOfTheory, ModelCard, PotentialSettings, Task
from geocalc.potentials.network import EnergyModel, ForceMode, NetworkPotential
from geocalc.train.domain import known_samples, make_domains
from geocalc.train.ensembles import (
    EnergyMember,
    calibration_of,
    check_members,
    held_out_errors,
    is_cross_validated,
    joined,
)
from geocalc.train.kind import Summary, TaskKind
from geocalc.train.publish import register_runs
from geocalc.train.recipe import Recipe, single_frame
from geocalc.train.run import Run, start_training
from geocalc.train.task import train


def register_model(run: Path | Sequence[Path], name: str, folder: Path, data_folder: Path) -> Path:
    """Write the model folder `folder/name` of a model of energies from a run, or from several that
    become an ensemble; see `geocalc.train.publish.register_runs`.

    Args:
        run: folder of `geocalc train`, or several.
        name: of the model.
        folder: where models are kept.
        data_folder: where prepared data are kept.
    """
    return register_runs(
        ENERGIES, [run] if isinstance(run, Path) else list(run), name, folder, data_folder
    )


def _read_data(recipe: Recipe, data_folder: Path) -> Samples:
    return read_store(prepare_store(recipe, data_folder))


def _start(recipe: Recipe, samples: Samples) -> Run[EnergyModel]:
    return start_training(recipe, samples.training)


def _weights(model: EnergyModel) -> Mapping[str, Tensor]:
    return model.network.state_dict()


def _measure(members: Sequence[EnergyMember], model: EnergyModel) -> dict[str, Any]:
    return {
        "validation": held_out_errors(members, model),
        "members": len(members),
        "cross_validated": is_cross_validated(members),
    }


def _domain(members: Sequence[EnergyMember], model: EnergyModel) -> dict[str, Tensor] | None:
    recipe, samples = members[0].recipe, members[0].samples
    if model.rewiring.merges:
        return None
    policy = frame_policy(recipe.model.frames)
    if policy.pick is FramePick.STOCHASTIC:
        policy = single_frame(recipe.model)
    potential = NetworkPotential(model=model, policy=policy, force_mode=ForceMode.NONE)
    samples = known_samples(samples, recipe.data)
    training, held_out = samples.training, samples.held_out
    if not (len(training) and len(held_out)):
        return None
    return make_domains(potential, training, held_out, recipe.source_levels)


def make_model_card(
    members: Sequence[EnergyMember], model: EnergyModel, name: str, digest: str
) -> ModelCard:
    """Make the card of a trained model.

    Args:
        members: the runs that it is made of.
        model: of all members together.
        name: of the model.
        digest: SHA-256 of its weights.
    """
    recipe = members[0].recipe
    present = _elements(members)
    random = frame_policy(recipe.model.frames).pick is FramePick.STOCHASTIC
    references = [
        {elements.symbols()[z]: energy for z in present if (energy := float(table[z])) != 0.0}
        for table in model.references
    ]
    return ModelCard(
        **recipe.about.fields_of(About),
        **recipe.about.fields_of(LevelOfTheory),
        **recipe.model.fields_of(PotentialSettings),
        name=name,
        task=recipe.task,
        cutoff=model.network.cutoff,
        elements=tuple(elements.symbols()[z] for z in present),
        reference_energies=references[0],
        other_levels=tuple(
            Level(**other.fields_of(LevelOfTheory), reference_energies=energies)
            for other, energies in zip(recipe.other_levels, references[1:], strict=True)
        ),
        energy_scale=model.energy_scale,
        force_scale=model.force_scale,
        conservative=recipe.model.force_mode is ForceMode.GRADIENT and not random,
        members=len(members),
        calibration=calibration_of(members, model) if recipe.task is Task.IS2RE else None,
        weights_sha256=digest,
    )


def _elements(members: Sequence[EnergyMember]) -> list[int]:
    """Atomic numbers in the training data of any member."""
    return sorted(
        {int(z) for member in members for sample in member.samples.training for z in sample.numbers}
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


def summarize_model(card: ModelCard, measured: Mapping[str, Any]) -> Summary:
    """Describe a card in words, and its errors on the validation split in a table."""
    gradient = " (exact gradient of the energy)" if card.conservative else ""
    columns = (
        ("position_mae", "position_null")
        if card.task is Task.IS2RE
        else ("force_mae", "force_null")
    )
    return Summary(
        introduction=(
            f"{card.architecture}, {_PREDICTS[card.task]}; energies are {card.energy_kind.value}"
            f" energies ({card.reference_text}).",
            f"Level of theory: {card.level_of_theory}.",
            f"Domain: {card.domain}.",
            f"Elements: {' '.join(card.elements)}.",
            f"Forces: {card.force_mode}{gradient}; frames: {card.frames}.",
        ),
        errors=(
            "## Errors on the validation split",
            "",
            *_TABLES[card.task],
            *(
                _row(source, errors, columns)
                for source, errors in measured.get("validation", {}).items()
            ),
        ),
    )


def _row(source: str, errors: Mapping[str, float], columns: tuple[str, str]) -> str:
    energy = f"{errors['energy_mae']:.3f}" if "energy_mae" in errors else "forces only"
    vectors = " | ".join(f"{errors[name]:.4f}" if name in errors else "none" for name in columns)
    return f"| {source} | {errors['n']} | {energy} | {vectors} |"


ENERGIES = TaskKind(
    recipe=Recipe,
    card=ModelCard,
    use="GeoCalc('{name}')",
    read_data=_read_data,
    start=_start,
    train=train,
    check_members=check_members,
    join=joined,
    weights=_weights,
    measure=_measure,
    make_domain=_domain,
    make_card=make_model_card,
    summarize=summarize_model,
)
