"""Register models of properties."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geocalc.potentials.card import About, NetworkSettings, Task
from geocalc.properties.card import PropertyCard
from geocalc.properties.data import Split, read_split
from geocalc.properties.ensemble import together
from geocalc.properties.model import PropertyModel
from geocalc.properties.recipe import GlassData, Property, PropertyRecipe
from geocalc.properties.task import (
    VALIDATION,
    errors_per_target,
    named,
    start_property,
    train_property,
)
from geocalc.train.kind import Member, Summary, TaskKind
from geocalc.train.publish import register_runs
from geocalc.train.run import Run
from geocalc.train.run_files import METRICS

TOGETHER = "the networks together, on what all of them held out"
SINGLE = "single networks, each on what it held out: means over the networks"
ROWS = {Task.NODE: "nodes", Task.GRAPH: "graphs"}

PropertyMember = Member[PropertyRecipe, PropertyModel, Split]


def register_property(runs: Sequence[Path], name: str, folder: Path, data_folder: Path) -> Path:
    """Write the model folder `folder/name` of a model of a property from a run, or from several
    whose mean becomes the model; see `geocalc.train.publish.register_runs`.

    Args:
        runs: folders of `geocalc train`.
        name: of the model.
        folder: where models are kept.
        data_folder: where data computed from the configurations are kept.
    """
    return register_runs(PROPERTIES, runs, name, folder, data_folder)


def _read_data(recipe: PropertyRecipe, data_folder: Path) -> Split:
    return read_split(recipe.data, data_folder)


def _start(recipe: PropertyRecipe, split: Split) -> Run[PropertyModel]:
    return start_property(recipe, split.training)


def _accept_all(recipes: Sequence[PropertyRecipe]) -> None:
    """Accept every ensemble: property networks share nothing."""


def _join(members: Sequence[PropertyMember]) -> PropertyModel:
    return together([member.model for member in members])


def _weights(model: PropertyModel) -> Mapping[str, Tensor]:
    return model.state_dict()


def _measure(members: Sequence[PropertyMember], model: PropertyModel) -> dict[str, Any]:
    """Errors of the model where its members hold out the same structures; else the means of the
    errors of its members, each on the structures that it holds out.
    """
    if all(member.recipe.data == members[0].recipe.data for member in members):
        errors = errors_per_target(model, members[0].samples.validation, torch.device("cpu"))
        found, of = named(errors), TOGETHER
    else:
        each = [
            json.loads((member.run / METRICS).read_text())[VALIDATION][VALIDATION]
            for member in members
        ]
        names = [name for name in each[0] if all(name in one for one in each)]
        found = {name: math.fsum(one[name] for one in each) / len(each) for name in names}
        of = SINGLE
    return {VALIDATION: {VALIDATION: found}, "members": len(members), "of": of}


def make_property_card(
    members: Sequence[PropertyMember], model: PropertyModel, name: str, digest: str
) -> PropertyCard:
    """Make the card of a trained model; see `geocalc.train.kind.TaskKind`."""
    recipe = members[0].recipe
    glass = recipe.data if isinstance(recipe.data, GlassData) else None
    return PropertyCard(
        **recipe.about.fields_of(About),
        **recipe.about.fields_of(Property),
        **recipe.model.fields_of(NetworkSettings),
        name=name,
        task=recipe.task,
        n_targets=len(model.mean),
        members=len(members),
        graph=None if glass is None else glass.graph,
        counted=() if glass is None else glass.counted,
        weights_sha256=digest,
    )


def summarize_property_model(card: PropertyCard, measured: Mapping[str, Any]) -> Summary:
    """Describe a card in words, and its errors on held-out structures in a table."""
    how = (
        f"{card.architecture}, the mean of {card.members} networks"
        if card.members > 1
        else card.architecture
    )
    of = measured.get("of")
    several = "Means over the targets, except for correlations that name a target."
    return Summary(
        introduction=(
            f"{how}; predicts the {card.target} ({card.unit}) of each {card.task.value}.",
            f"Domain: {card.domain}.",
        ),
        errors=(
            "## Errors on what was held out",
            "",
            *([f"Of {of}.", ""] if of else []),
            *([several, ""] if card.n_targets > 1 else []),
            "| measure | meaning | value |",
            "|---|---|---|",
            *(
                f"| {name} | {_meaning(name, card)} | {_number(name, value)} |"
                for name, value in measured[VALIDATION][VALIDATION].items()
            ),
        ),
    )


def _meaning(name: str, card: PropertyCard) -> str:
    rows = ROWS[card.task]
    meanings = {
        "n": f"{rows} that were held out and count",
        "mae": f"mean absolute error ({card.unit})",
        "rmse": f"root of the mean squared error ({card.unit})",
        "r2": "share of the variance that is explained",
        "pearson": f"Pearson's correlation over all {rows} together",
        "pearson_each": "Pearson's correlation within each structure, mean over structures",
    }
    return (
        meanings.get(name)
        or f"the same as pearson, of target {name.removeprefix('pearson_')} alone"
    )


def _number(name: str, value: float) -> str:
    return f"{value:,.0f}" if name == "n" else f"{value:.4g}"


def _no_domain(members: Sequence[PropertyMember], model: PropertyModel) -> None:
    return None


PROPERTIES = TaskKind(
    recipe=PropertyRecipe,
    card=PropertyCard,
    use="geocalc predict --model {name}",
    read_data=_read_data,
    start=_start,
    train=train_property,
    check_members=_accept_all,
    join=_join,
    weights=_weights,
    measure=_measure,
    make_domain=_no_domain,
    make_card=make_property_card,
    summarize=summarize_property_model,
)
