"""Several finished runs as one model, and what is known of its errors.

Runs of one recipe may differ in their seeds, or in what they hold out: then every structure is held
out by some of them, and the errors are those of the networks that have not seen it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from geocalc.architectures.ensemble import Ensemble
from geocalc.core.energies import check_same_basis
from geocalc.data.store import Samples
from geocalc.errors import InputError
from geocalc.evaluation.is2re import PairPredictions, pair_errors, pair_predictions
from geocalc.evaluation.single_points import Predictions, errors_of, known_numbers, predictions
from geocalc.frames.policy import FramePolicy, frame_policy
from geocalc.potentials.calibration import FEWEST, Calibration, calibrate
from geocalc.potentials.card import Task
from geocalc.potentials.network import EnergyModel, NetworkPotential
from geocalc.train.kind import Member
from geocalc.train.recipe import Recipe, single_frame

Told = PairPredictions | Predictions


EnergyMember = Member[Recipe, EnergyModel, Samples]


def check_members(recipes: Sequence[Recipe]) -> None:
    """Refuse an ensemble of networks whose energies or frames cannot be averaged.

    Raises:
        InputError: there are several networks, each with a canonicalizer of its own.
        EnergyKindError: two learned energies of different kinds, levels or references.
    """
    for recipe in recipes[1:]:
        for one, other in zip(recipes[0].bases, recipe.bases, strict=False):
            check_same_basis(one, other, recipes[0].name, recipe.name, "averaged")
    if len(recipes) > 1 and recipes[0].model.canonicalizer is not None:
        raise InputError(
            "each of these runs has a canonicalizer of its own, and an ensemble has one frame for"
            " all its networks; register one run"
        )


def joined(members: Sequence[EnergyMember]) -> EnergyModel:
    """One model of all members; of a single one, its own."""
    first = members[0].model
    if len(members) == 1:
        return first
    models = [member.model for member in members]
    if first.rewiring.merges and any(
        not torch.equal(model.references, first.references) for model in models
    ):
        raise InputError(
            "networks with supernodes make one model only where their references are the same;"
            " register runs that hold out the same structures, or a single one"
        )
    network = Ensemble([model.network for model in models])
    network.set_units(
        torch.tensor([model.energy_scale / first.energy_scale for model in models]),
        torch.tensor([model.force_scale / first.force_scale for model in models]),
        torch.stack(
            [(model.references - first.references) / first.energy_scale for model in models]
        ),
    )
    whole = copy.deepcopy(first)
    whole.network = network
    return whole.eval()


def is_cross_validated(members: Sequence[EnergyMember]) -> bool:
    """Whether the members hold out different structures."""
    return any(member.recipe.data != members[0].recipe.data for member in members)


def held_out_errors(
    members: Sequence[EnergyMember], model: EnergyModel
) -> dict[str, dict[str, float]]:
    """Errors on held-out structures, with one frame, by source file: of the whole model, or of
    members that have not seen them.
    """
    answering = _answering(members, model)
    found = {}
    for number, source in enumerate(members[0].recipe.data.sources):
        told = [
            _told(one, number, single_frame(one.recipe.model))
            for one in answering
            if len(_held_out(one, number))
        ]
        if told:
            whole = _concatenated(told)
            errors = pair_errors(whole) if isinstance(whole, PairPredictions) else errors_of(whole)
            found[str(source.path)] = known_numbers(errors)
    return found


def calibration_of(members: Sequence[EnergyMember], model: EnergyModel) -> Calibration | None:
    """Intervals of relaxed energies from held-out pairs, with the frames of the card; None where
    they are too few.
    """
    recipe, numbers = members[0].recipe, range(len(members[0].recipe.data.sources))
    places = [
        (one, number)
        for one in _answering(members, model)
        for number in numbers
        if len(_held_out(one, number))
    ]
    whole = _concatenated(
        [_told(one, number, frame_policy(recipe.model.frames)) for one, number in places]
    )
    if not isinstance(whole, PairPredictions) or len(whole.energy) < FEWEST:
        return None
    # then one network answers, and has no spread
    alone = len(members) == 1 or is_cross_validated(members)
    return calibrate(whole.energy - whole.energy_reference, None if alone else whole.spread)


def _answering(members: Sequence[EnergyMember], model: EnergyModel) -> list[EnergyMember]:
    """Whose predictions count for what is held out: the whole model's, or those of the members that
    have not seen it.
    """
    return list(members) if is_cross_validated(members) else [replace(members[0], model=model)]


def _held_out(member: EnergyMember, number: int) -> Samples:
    samples = member.samples.held_out
    return samples.where(samples.sample_index.source == number)


def _told(member: EnergyMember, number: int, frames: FramePolicy) -> Told:
    """What a model predicts for what its run holds out of a source."""
    recipe = member.recipe
    potential = NetworkPotential(
        model=member.model,
        policy=frames,
        force_mode=recipe.model.force_mode,
        level=recipe.source_levels[number],
    )
    some = _held_out(member, number)
    if recipe.task is Task.IS2RE:
        return pair_predictions(potential, some)
    return predictions(potential, some, energies=recipe.data.sources[number].energies)


def _concatenated(told: Sequence[Told]) -> Told:
    """Predictions of several, one after the other."""
    columns = {f.name: [getattr(one, f.name) for one in told] for f in fields(told[0])}
    joined: dict[str, Any] = {
        name: None if column[0] is None else np.concatenate(column)
        for name, column in columns.items()
    }
    return replace(told[0], **joined)
