"""From a run to a model folder: what every kind of model has in common."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.potentials.registry import CARD, WEIGHTS, list_models, search_path, write_card
from geocalc.train.checkpoint import COUNTERS, steps_done
from geocalc.train.run_files import CHECKPOINT, METRICS, RECIPE, make_folder, read_log
from geocalc.train.settings import Optimization
from geocalc.train.stopping import is_over

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """What a model folder holds: weights as bytes of safetensors, the card, the recipe of a run,
    its metrics and a README.
    """

    weights: bytes
    card: Settings
    recipe: Path
    metrics: str
    readme: str


def publish(folder: Path, name: str, files: ModelFiles) -> Path:
    """Write the model folder `folder/name`: all of it or nothing."""
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
        draft = Path(scratch) / name
        draft.mkdir()
        (draft / WEIGHTS).write_bytes(files.weights)
        write_card(draft, files.card)
        shutil.copy(files.recipe, draft / RECIPE)
        (draft / METRICS).write_text(files.metrics)
        (draft / "README.md").write_text(files.readme)
        _move(draft, folder / name)
    return folder / name


def check_run(run: Path) -> None:
    """Refuse what is no folder of a training run.

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
    """Refuse a name that is none, or that is taken where a model would be looked for.

    Raises:
        InputError: it is.
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
    """Put a finished folder in its place: at once, or, where the place holds a recipe already, with
    the card as its last file.
    """
    if not target.exists():
        os.replace(draft, target)
        return
    for file in sorted(draft.iterdir(), key=lambda path: path.name == CARD):
        os.replace(file, target / file.name)
