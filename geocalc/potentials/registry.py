"""Models by name: where they are found, how they are loaded and checked."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from geocalc.architectures import ARCHITECTURES
from geocalc.architectures.base import Network
from geocalc.architectures.ensemble import Ensemble
from geocalc.core import elements
from geocalc.core.settings import Settings, read_yaml
from geocalc.core.systems import Prediction, Systems
from geocalc.errors import InputError, ModelFileError, ModelNotFoundError, RecipeError
from geocalc.frames import frame_policy
from geocalc.frames.learned import build_canonicalizer
from geocalc.graphs.reduction import Rewiring
from geocalc.graphs.strategies import graph_builder
from geocalc.potentials.card import CARD_SCHEMA, PROPERTY, ModelCard, Task
from geocalc.potentials.network import EnergyModel, ForceMode, NetworkPotential, Scales

CARD, WEIGHTS = "model.yaml", "weights.safetensors"
LFS_POINTER = b"version https://git-lfs"
Part = TypeVar("Part")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready for use: its card, its potential, and the hash that identifies it in records."""

    card: ModelCard
    potential: NetworkPotential
    folder: Path

    @property
    def hash(self) -> str:
        """First 16 digits of the weights' SHA-256."""
        return self.card.weights_sha256[:16]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.potential.model.references.device

    def __call__(self, systems: Systems) -> Prediction:
        """Predict a batch; see `NetworkPotential`."""
        return self.potential(systems)


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
    """Every model found, by name: the folders that hold it (more than one is an error when it is
    loaded).
    """
    found: dict[str, list[Path]] = {}
    for folder in search_path():
        for card in sorted(folder.glob(f"*/{CARD}")):
            found.setdefault(card.parent.name, []).append(card.parent)
    return found


def find_model(name: str | os.PathLike[str]) -> Path:
    """The folder of a model, from a path (a `Path`, or text with a separator) or a name.

    A name is looked up in the working directory too, where it may not mean another model than
    elsewhere.

    Raises:
        ModelNotFoundError: nothing of that name; the message lists near names and where geocalc
            looked.
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
    near = difflib.get_close_matches(name, models, n=3, cutoff=0.4) or sorted(models)
    hint = f"did you mean {' or '.join(near)}?" if near else "no models are installed"
    looked = ", ".join(str(folder) for folder in search_path())
    raise ModelNotFoundError(f"no model is named {name!r}; {hint} (looked in {looked})")


def read_card(folder: Path) -> ModelCard:
    """The card in a model folder.

    Raises:
        ModelFileError: see `card_values`; also if it is of a model that predicts no energies.
    """
    values = card_values(folder)
    if is_property(values):
        raise ModelFileError(
            f"{values.get('name', folder.name)} predicts {values.get('target', 'a property')}, not"
            " energies; `geocalc predict --model` takes it, and"
            " geocalc.properties.registry.load_property_model"
        )
    try:
        return ModelCard.parse(values, str(folder / CARD))
    except RecipeError as error:
        raise ModelFileError(str(error)) from None


def is_property(values: Mapping[str, Any]) -> bool:
    """Whether the values of a card are of a model that predicts no energies."""
    return values.get("kind") == PROPERTY


def card_values(folder: Path) -> dict[str, Any]:
    """What stands on the card in a model folder, whatever kind of model it is.

    Raises:
        ModelFileError: it is missing, damaged, or of a newer schema than this version reads.
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


def load_model(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "float32",
    frames: str | None = None,
    stress: bool = False,
    seed: int | None = None,
    level: str | None = None,
) -> LoadedModel:
    """Load a model by name or path; runs no code from its folder.

    Args:
        name: a name from `geocalc models`, or the path of a model folder.
        device: auto (a GPU if there is one), cpu, cuda or cuda:1.
        dtype: float32 or float64, of the network; geometry is always float64.
        frames: a frame policy other than the card's default.
        stress: compute stress by strain even if the model was not trained for it (for studies).
        seed: for stochastic frame policies, which need one.
        level: of theory, for models that know several; the card's first unless told otherwise.
    Raises:
        ModelNotFoundError, ModelFileError: see `find_model`, `read_card`; also a wrong hash or an
            LFS pointer.
        InputError: unknown dtype, device, frame policy or level.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    folder = find_model(name)
    card = read_card(folder)
    number = card.level_number(level)
    policy = frame_policy(frames) if frames else _in_card(card, lambda: frame_policy(card.frames))
    target = choose_device(device)
    model = build(card, read_weights(folder / WEIGHTS, card.name, card.weights_sha256)).to(target)
    model.network.to(DTYPES[dtype])
    potential = NetworkPotential(
        model=model.eval().requires_grad_(False),
        policy=policy,
        force_mode=_force_mode(card),
        stress=stress or card.stress,
        seed=seed,
        level=number,
        elements=tuple(_atomic_number(symbol, card) for symbol in card.elements),
        graphs=graph_builder(model.network.cutoff, model.network.max_neighbors, card.graph),
    )
    return LoadedModel(card=card.at(number), potential=potential, folder=folder)


def build(card: ModelCard, tensors: dict[str, torch.Tensor]) -> EnergyModel:
    """The energy model of a card with given weights.

    Raises:
        ModelFileError: the architecture or one of its settings is unknown, the weights do not fit
            it, or the cutoff of the card is not that of the network.
    """
    if card.architecture not in ARCHITECTURES:
        raise ModelFileError(
            f"model {card.name} needs the architecture {card.architecture!r}, which this geocalc"
            " does not have"
        )
    references = torch.zeros(len(card.levels), elements.N_ELEMENTS + 1, dtype=torch.float64)
    for number, level in enumerate(card.levels):
        for symbol, energy in level.reference_energies.items():
            references[number, _atomic_number(symbol, card)] = energy
    scales = Scales(energy=card.energy_scale, forces=card.force_scale, references=references)
    with torch.random.fork_rng(devices=[]):
        networks = [_in_card(card, lambda: _network(card)) for _ in range(card.members)]
    network = networks[0] if card.members == 1 else Ensemble(networks)
    if network.n_levels != len(card.levels):
        raise ModelFileError(
            f"the card of {card.name} has {len(card.levels)} levels of theory, its network"
            f" {network.n_levels}; one of them was changed; install the model again"
        )
    if network.cutoff != card.cutoff:
        raise ModelFileError(
            f"the card of {card.name} says cutoff {card.cutoff} Angstrom, the settings of its"
            f" network say {network.cutoff}; one of them was changed; install the model again"
        )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(
            f"the weights of {card.name} do not fit its card: {' '.join(str(error).split())}"
        ) from None
    rewiring = _in_card(
        card, lambda: Rewiring(card.drop_subsurface, card.adsorbate_edges, card.supernodes)
    )
    displaces, reach = card.task is Task.IS2RE, card.repulsion_reach
    return _in_card(
        card,
        lambda: EnergyModel(
            network, scales, reach, card.reads_tags, rewiring, displaces, card.graph
        ),
    )


def _network(card: ModelCard) -> Network:
    """A network of the card, its canonicalizer with it, with weights as drawn."""
    architecture = ARCHITECTURES[card.architecture]
    network = architecture.build(architecture.settings.parse(card.settings, "settings"))
    if card.canonicalizer is not None:
        if card.members > 1:
            raise InputError(
                "networks of an ensemble share their frames, so they cannot have canonicalizers"
            )
        network.canonicalizer = build_canonicalizer(card.canonicalizer, network.cutoff)
    return network


def _in_card(card: ModelCard, read: Callable[[], Part]) -> Part:
    """What `read` makes of a part of the card; a fault in it is one of the model's files."""
    try:
        return read()
    except (InputError, RecipeError) as error:
        raise ModelFileError(f"the card of {card.name} cannot be used: {error}") from None


def _atomic_number(symbol: str, card: ModelCard) -> int:
    known = elements.symbols()[1:]
    if symbol not in known:
        raise ModelFileError(
            f"the card of {card.name} names the element {symbol!r}, which does not exist; correct"
            f" its {CARD}"
        )
    return known.index(symbol) + 1


def _force_mode(card: ModelCard) -> ForceMode:
    allowed = [mode.value for mode in ForceMode]
    if card.force_mode not in allowed:
        raise ModelFileError(
            f"the card of {card.name} has force_mode {card.force_mode!r}; it must be one of"
            f" {', '.join(allowed)}"
        )
    return ForceMode(card.force_mode)


def choose_device(device: str) -> torch.device:
    """The torch device of a name, `auto` meaning a GPU if there is one.

    Raises:
        InputError: the device is unknown or not present.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is unknown; choose auto, cpu or cuda") from None
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(
            f"device {device!r} cannot be used, for want of float64 or of kernels; choose auto, cpu"
            " or cuda"
        )
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {device!r} was asked for but no CUDA device is available; use cpu or auto"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device!r} was asked for but there are {torch.cuda.device_count()}, numbered"
            " from 0"
        )
    return chosen


def write_card(folder: Path, card: Settings) -> None:
    """Write `model.yaml`."""
    (folder / CARD).write_text(
        yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, width=120)
    )


def read_weights(path: Path, name: str, sha256: str) -> dict[str, torch.Tensor]:
    """The tensors of a model's file of weights.

    Args:
        path: of the file.
        name: of the model.
        sha256: of the file, as the card has it.
    Raises:
        ModelFileError: it cannot be read, is a Git LFS pointer, or is not the file that the card
            tells of.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"cannot read the weights of {name}: {path}: {error.strerror or error}"
        ) from None
    if content.startswith(LFS_POINTER):
        raise ModelFileError(
            f"{path} is a Git LFS pointer, not weights; fetch the file itself with `git lfs pull`"
        )
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ModelFileError(
            f"{path} has SHA-256 {digest[:12]}..., the card says {sha256[:12]}...: "
            "the file is damaged, truncated or was changed; install the model again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ModelFileError(f"{path} is not a safetensors file: {error}") from None
