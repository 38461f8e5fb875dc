"""Model folders of every task: search path, cards and weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from geocalc.core.nearest import nearest
from geocalc.core.settings import read_yaml
from geocalc.errors import ModelFileError, ModelNotFoundError, RecipeError
from geocalc.potentials.card import CARD_SCHEMA, Card, ModelCard, Task

CARD, WEIGHTS, DOMAIN = "model.yaml", "weights.safetensors", "domain.safetensors"
FIRST = ("schema_version", "name", "task", "architecture", "settings")  # keys of a written card
LFS_POINTER = b"version https://git-lfs"
C = TypeVar("C", bound=Card)
C_co = TypeVar("C_co", bound=Card, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Installed(Generic[C_co]):
    """A model read from its folder.

    Attributes:
        card: its card.
        folder: where it lies.
    """

    card: C_co
    folder: Path

    @property
    def hash(self) -> str:
        """First 16 digits of the SHA-256 of the weights, as in records."""
        return self.card.weights_sha256[:16]


def shipped_folder() -> Path:
    """The folder of models that come with geocalc: inside an installed wheel, else beside the
    package in a checkout.
    """
    inside = Path(str(files("geocalc") / "_models"))
    return inside if inside.is_dir() else Path(str(files("geocalc"))).parent / "models"


def user_folder() -> Path:
    """The folder where `geocalc register` puts models: `$XDG_DATA_HOME/geocalc/models` or its usual
    place.
    """
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "geocalc" / "models"


def search_path() -> list[Path]:
    """Folders of models in order: those in `$GEOCALC_MODELS`, the user's, the shipped one."""
    named = [Path(part) for part in os.environ.get("GEOCALC_MODELS", "").split(os.pathsep) if part]
    folders: list[Path] = []
    for folder in [*named, user_folder(), shipped_folder()]:
        if folder.resolve() not in [f.resolve() for f in folders]:
            folders.append(folder)
    return folders


def list_models() -> dict[str, list[Path]]:
    """List the installed models by name, each with the folders that hold it; a model in more than
    one folder cannot be loaded by name.
    """
    found: dict[str, list[Path]] = {}
    for folder in search_path():
        for card in sorted(folder.glob(f"*/{CARD}")):
            found.setdefault(card.parent.name, []).append(card.parent)
    return found


def find_model(name: str | os.PathLike[str]) -> Path:
    """Find the folder of a model from a path (a `Path`, or text with a separator) or a name.

    A name is looked up in the working directory too, where it may not mean another model than
    elsewhere.

    Raises:
        ModelNotFoundError: nothing of that name; the message suggests near names and lists where
            geocalc looked.
        ModelFileError: the name is found in two folders.
    """
    here = Path(name)
    if not isinstance(name, str) or os.sep in name:
        if (here / CARD).is_file():
            return here
        raise ModelNotFoundError(f"{name} is not a model folder: it has no {CARD}")
    models = list_models()
    places = models.get(name, [])
    if (here / CARD).is_file() and here.resolve() not in [place.resolve() for place in places]:
        places = [here, *places]
    if len(places) > 1:
        both = " and ".join(str(place) for place in places)
        raise ModelFileError(
            f"two models are named {name!r}: {both}; rename or remove one, or give the path of the"
            " one you mean"
        )
    if places:
        return places[0]
    hint = nearest(name, sorted(models)) if models else "no models are installed"
    looked = ", ".join(str(folder) for folder in search_path())
    raise ModelNotFoundError(f"no model is named {name!r}; {hint} (looked in {looked})")


def card_values(folder: Path) -> dict[str, Any]:
    """Read the card in a model folder as plain values, whatever the task.

    Raises:
        ModelFileError: the card is missing, damaged, or of a newer schema than this version reads.
    """
    try:
        values = read_yaml(folder / CARD)
    except RecipeError as error:
        raise ModelFileError(str(error)) from None
    version = values.get("schema_version", 0)
    if isinstance(version, int) and version > CARD_SCHEMA:
        raise ModelFileError(
            f"{folder / CARD} has schema version {version}, this geocalc reads up to {CARD_SCHEMA};"
            " upgrade geocalc"
        )
    return values


def model_task(folder: Path) -> Task:
    """Read the task of the model in a folder.

    Raises:
        ModelFileError: see `card_values`; also if the task is unknown.
    """
    return _task_of(card_values(folder), folder)


def _task_of(values: Mapping[str, Any], folder: Path) -> Task:
    given = str(values.get("task", Task.S2EF))
    if given not in list(Task):
        raise ModelFileError(f"{folder / CARD}: unknown task {given!r}; {nearest(given, Task)}")
    return Task(given)


@overload
def read_card(folder: Path) -> ModelCard: ...
@overload
def read_card(folder: Path, kind: type[C]) -> C: ...
def read_card(folder: Path, kind: type[Card] = ModelCard) -> Card:
    """Read the card in a model folder.

    Args:
        folder: of the model.
        kind: the class of cards that is wanted; by default that of models of energies.
    Raises:
        ModelFileError: see `model_task`; also if the model is for another task.
    """
    values = card_values(folder)
    task = _task_of(values, folder)
    if task not in kind.tasks:
        wanted = " or ".join(one.value for one in Task if one in kind.tasks)
        predicted = f" ({values['target']})" if "target" in values else ""
        raise ModelFileError(
            f"{values.get('name', folder.name)} is a model of task {task.value}{predicted},"
            f" expected {wanted}; `geocalc predict --model` takes models of every task"
        )
    try:
        return kind.parse(values, str(folder / CARD))
    except RecipeError as error:
        raise ModelFileError(str(error)) from None


def write_card(folder: Path, card: Card) -> None:
    """Write `model.yaml`, with what names the model first."""
    values = card.model_dump(mode="json")
    ordered = {name: values[name] for name in FIRST} | values
    (folder / CARD).write_text(yaml.safe_dump(ordered, sort_keys=False, width=120))


def write_domain(folder: Path, card: C, tensors: Mapping[str, torch.Tensor]) -> C:
    """Write `domain.safetensors`, and the card with its hash.

    Args:
        folder: of the model.
        card: its card.
        tensors: see `geocalc.potentials.domain.domain_tensors`.
    Returns:
        The card with the hash.
    """
    content = save_tensors(dict(tensors))
    (folder / DOMAIN).write_bytes(content)
    card = card.model_copy(update={"domain_sha256": hashlib.sha256(content).hexdigest()})
    write_card(folder, card)
    return card


def read_weights(folder: Path, card: Card) -> dict[str, torch.Tensor]:
    """Read the weights in a model folder; no code of the folder is run.

    Args:
        folder: of the model.
        card: its card.
    Raises:
        ModelFileError: the file cannot be read, is a Git LFS pointer, or has another hash than the
            card says.
    """
    return _read_tensors(folder / WEIGHTS, card.weights_sha256, f"the weights of {card.name}")


def read_domain(folder: Path, card: Card) -> dict[str, torch.Tensor] | None:
    """Read the domain in a model folder, None where the model has none.

    Args:
        folder: of the model.
        card: its card.
    Raises:
        ModelFileError: see `read_weights`.
    """
    if card.domain_sha256 is None:
        return None
    return _read_tensors(folder / DOMAIN, card.domain_sha256, f"the domain of {card.name}")


def _read_tensors(path: Path, expected: str, what: str) -> dict[str, torch.Tensor]:
    """Read a file of tensors with an expected SHA-256; `what` names it in messages."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {what}: {path}: {error.strerror or error}") from None
    if content.startswith(LFS_POINTER):
        raise ModelFileError(
            f"{path} is a Git LFS pointer, not weights; fetch the file itself with `git lfs pull`"
        )
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise ModelFileError(
            f"{path} has SHA-256 {digest[:12]}..., the card says {expected[:12]}...: "
            "the file is damaged, truncated or was changed; install the model again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ModelFileError(f"{path} is not a safetensors file: {error}") from None
