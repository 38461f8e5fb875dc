"""From finished runs to a model folder, for every kind of task."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from geocalc.errors import InputError
from geocalc.potentials.card import Card
from geocalc.potentials.registry import (
    CARD,
    WEIGHTS,
    list_models,
    search_path,
    write_card,
    write_domain,
)
from geocalc.train.base_recipe import BaseRecipe
from geocalc.train.checkpoint import COUNTERS, load_checkpoint, steps_done
from geocalc.train.kind import C, D, M, Member, R, Summary, TaskKind
from geocalc.train.run_files import CHECKPOINT, METRICS, RECIPE, make_folder, read_log
from geocalc.train.settings import Optimization
from geocalc.train.stopping import final_model, is_over

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Contents of a model folder.

    Attributes:
        weights: as bytes of safetensors.
        domain: tensors of its domain, None for a model without one.
        card: of the model.
        recipe: path of the recipe of a run.
        metrics: text of metrics.json.
        readme: text of README.md.
    """

    weights: bytes
    domain: Mapping[str, Tensor] | None
    card: Card
    recipe: Path
    metrics: str
    readme: str


def register_runs(
    kind: TaskKind[R, M, D, C], runs: Sequence[Path], name: str, folder: Path, data_folder: Path
) -> Path:
    """Write the model folder `folder/name` from a run, or from several that become an ensemble,
    with averaged weights.

    Args:
        kind: of the task of the runs.
        runs: folders of `geocalc train`, of recipes that differ at most in seeds and in what they
            hold out.
        name: of the model.
        folder: where models are kept.
        data_folder: where prepared data are kept.
    Returns:
        The new folder: model.yaml, weights.safetensors, domain.safetensors for models of energies,
        recipe.yaml, metrics.json, README.md.
    Raises:
        InputError: a run is unfinished, the runs do not belong together, or the name is taken or is
            no plain name.
    """
    recipes = [_finished_recipe(kind, run) for run in runs]
    kind.check_members(recipes)
    check_same_model(runs, recipes)
    check_name(name, folder)
    members = [
        _member(kind, run, recipe, data_folder) for run, recipe in zip(runs, recipes, strict=True)
    ]
    model, metrics = kind.join(members), (runs[0] / METRICS).read_text()
    if len(members) > 1:
        metrics = json.dumps(kind.measure(members, model), indent=1) + "\n"
    tensors = kind.weights(model)
    content = save({key: tensors[key].detach().float().contiguous() for key in tensors})
    card = kind.make_card(members, model, name, hashlib.sha256(content).hexdigest())
    readme = model_page(card, kind.summarize(card, json.loads(metrics)))
    return publish(
        folder,
        name,
        ModelFiles(
            weights=content,
            domain=kind.make_domain(members, model),
            card=card,
            recipe=runs[0] / RECIPE,
            metrics=metrics,
            readme=readme,
        ),
    )


def _finished_recipe(kind: TaskKind[R, M, D, C], run: Path) -> R:
    """Read the recipe of a run that has come to its end."""
    check_run(run)
    recipe = kind.recipe.read(run / RECIPE)
    check_finished(run, recipe.training)
    return recipe


def _member(kind: TaskKind[R, M, D, C], run: Path, recipe: R, data_folder: Path) -> Member[R, M, D]:
    """Load the trained model of a run, with its data."""
    samples = kind.read_data(recipe, data_folder)
    finished = kind.start(recipe, samples)
    load_checkpoint(run / CHECKPOINT, finished.model.network, finished.optimizer, finished.average)
    model = final_model(finished, run, recipe.training.patience)
    return Member(run=run, recipe=recipe, model=model, samples=samples)


def model_page(card: Card, summary: Summary) -> str:
    """Write a first README for a model folder: the card in words, and one table."""
    lines = [f"# {card.name}", "", *summary.introduction, "", *summary.errors]
    sections = {"Data": card.data, "Limits": card.limits}
    sections |= {"Citation": card.citation} if card.citation else {}
    for title, entries in sections.items():
        lines += ["", f"## {title}", "", *(f"- {entry}" for entry in entries)]
    return "\n".join([*lines, ""])


def publish(folder: Path, name: str, files: ModelFiles) -> Path:
    """Write the model folder `folder/name`: all of it or nothing."""
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
        draft = Path(scratch) / name
        draft.mkdir()
        (draft / WEIGHTS).write_bytes(files.weights)
        if files.domain is None:
            write_card(draft, files.card)
        else:
            write_domain(draft, files.card, files.domain)
        shutil.copy(files.recipe, draft / RECIPE)
        (draft / METRICS).write_text(files.metrics)
        (draft / "README.md").write_text(files.readme)
        _move(draft, folder / name)
    return folder / name


def check_same_model(runs: Sequence[Path], recipes: Sequence[BaseRecipe]) -> None:
    """Refuse runs of recipes that describe different models.

    Raises:
        InputError: two recipes differ in more than their training and in what they hold out.
    """
    first = recipes[0].without_split()
    for run, recipe in zip(runs[1:], recipes[1:], strict=True):
        other = recipe.without_split()
        differing = [
            part for part in first.model_parts if getattr(other, part) != getattr(first, part)
        ]
        if differing:
            raise InputError(
                f"{run} and {runs[0]} differ in `{differing[0]}` of their recipes; the runs of one"
                " model differ only in seeds and in the structures that they hold out"
            )


def check_run(run: Path) -> None:
    """Refuse a folder that is not one of a training run.

    Raises:
        InputError: the recipe or the checkpoint is missing.
    """
    if not (run / RECIPE).is_file() or not (run / CHECKPOINT / COUNTERS).is_file():
        raise InputError(
            f"{run} is not a training run: it needs {RECIPE} and a checkpoint; give the folder of"
            " `geocalc train`"
        )


def check_finished(run: Path, settings: Optimization) -> None:
    """Refuse a run that has not come to its end.

    Raises:
        InputError: steps are left and patience is not at its end.
    """
    done = steps_done(run / CHECKPOINT)
    ended = done >= settings.steps or is_over(read_log(run), settings.patience)
    if not ended or not (run / METRICS).is_file():
        raise InputError(
            f"{run} has done {done} of {settings.steps} steps; finish it with `geocalc train ..."
            " --resume` first"
        )


def check_name(name: str, folder: Path) -> None:
    """Refuse a name that cannot be one, or that another model has already.

    Raises:
        InputError: the name has other characters than allowed, or is taken.
    """
    if not PLAIN.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be a model name; use letters, digits, dots, dashes and underscores"
        )
    if (folder / name / CARD).exists():
        raise InputError(
            f"a model named {name!r} is in {folder} already; choose another name or remove that"
            " folder"
        )
    searched = folder.resolve() in [place.resolve() for place in search_path()]
    taken = list_models().get(name, [])
    if searched and taken:
        raise InputError(
            f"a model named {name!r} is installed already, in {taken[0]}; choose another name"
        )


def _move(draft: Path, target: Path) -> None:
    """Move a finished folder to its place: at once, or file by file with the card last where the
    folder exists already.
    """
    if not target.exists():
        os.replace(draft, target)
        return
    for file in sorted(draft.iterdir(), key=lambda path: path.name == CARD):
        os.replace(file, target / file.name)
