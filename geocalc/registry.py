"""Models by name: where they are found, how they are loaded and checked."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from geocalc import elements
from geocalc.architectures import ARCHITECTURES
from geocalc.card import CARD_SCHEMA, ModelCard
from geocalc.errors import InputError, ModelFileError, ModelNotFoundError, RecipeError
from geocalc.frames import frame_policy
from geocalc.potential import EnergyModel, ForceMode, NetworkPotential, Scales
from geocalc.settings import read_yaml
from geocalc.systems import Prediction, Systems

CARD, WEIGHTS = "model.yaml", "weights.safetensors"
LFS_POINTER = b"version https://git-lfs"
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
    """The folder of models that come with geocalc: inside an installed wheel, else beside the package in a checkout."""
    inside = Path(str(files("geocalc") / "_models"))
    return inside if inside.is_dir() else Path(str(files("geocalc"))).parent / "models"


def user_folder() -> Path:
    """The folder where `geocalc register` puts models: `$XDG_DATA_HOME/geocalc/models` or its usual place."""
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
    """Every model found, by name: the folders that hold it (more than one is an error when it is loaded)."""
    found: dict[str, list[Path]] = {}
    for folder in search_path():
        for card in sorted(folder.glob(f"*/{CARD}")):
            found.setdefault(card.parent.name, []).append(card.parent)
    return found


def find_model(name: str | os.PathLike[str]) -> Path:
    """The folder of a model, from a path or a name.

    Raises:
        ModelNotFoundError: nothing of that name; the message lists near names and where geocalc looked.
        ModelFileError: the name is found in two folders.
    """
    path = Path(name)
    if (path / CARD).is_file():
        return path
    if path.is_dir() or len(path.parts) > 1:
        raise ModelNotFoundError(f"{name} is not a model folder: it has no {CARD}")
    models = list_models()
    places = models.get(str(name), [])
    if len(places) > 1:
        both = " and ".join(str(place) for place in places)
        raise ModelFileError(
            f"two models are named {name!r}: {both}; rename or remove one, or give the path of the one you mean"
        )
    if places:
        return places[0]
    near = difflib.get_close_matches(str(name), models, n=3, cutoff=0.4) or sorted(models)
    hint = f"did you mean {' or '.join(near)}?" if near else "no models are installed"
    looked = ", ".join(str(folder) for folder in search_path())
    raise ModelNotFoundError(f"no model is named {name!r}; {hint} (looked in {looked})")


def read_card(folder: Path) -> ModelCard:
    """The card in a model folder.

    Raises:
        ModelFileError: it is missing, damaged, or of a newer schema than this version reads.
    """
    try:
        values = read_yaml(folder / CARD)
        version = values.get("schema_version", 0)
        if isinstance(version, int) and version > CARD_SCHEMA:
            raise ModelFileError(
                f"{folder / CARD} has schema version {version}, this geocalc reads up to {CARD_SCHEMA}; upgrade geocalc"
            )
        return ModelCard.parse(values, str(folder / CARD))
    except RecipeError as error:
        raise ModelFileError(str(error)) from None


def load_model(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "float32",
    frames: str | None = None,
    stress: bool = False,
    seed: int | None = None,
) -> LoadedModel:
    """Load a model by name or path; runs no code from its folder.

    Args:
        name: a name from `geocalc models`, or the path of a model folder.
        device: auto (a GPU if there is one), cpu, cuda or cuda:1.
        dtype: float32 or float64, of the network; geometry is always float64.
        frames: a frame policy other than the card's default.
        stress: compute stress by strain even if the model was not trained for it (for studies).
        seed: for stochastic frame policies, which need one.
    Raises:
        ModelNotFoundError, ModelFileError: see `find_model`, `read_card`; also a wrong hash or an LFS pointer.
        InputError: unknown dtype, device or frame policy.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    folder = find_model(name)
    card = read_card(folder)
    policy = frame_policy(frames or card.frames)
    target = choose_device(device)
    model = build(card, _read_weights(folder / WEIGHTS, card)).to(target)
    model.network.to(DTYPES[dtype])
    potential = NetworkPotential(
        model=model.eval().requires_grad_(False),
        policy=policy,
        force_mode=ForceMode(card.force_mode),
        stress=stress or card.stress,
        seed=seed,
        elements=tuple(elements.symbols().index(symbol) for symbol in card.elements),
    )
    return LoadedModel(card=card, potential=potential, folder=folder)


def build(card: ModelCard, tensors: dict[str, torch.Tensor]) -> EnergyModel:
    """The energy model of a card with given weights.

    Raises:
        ModelFileError: the architecture is unknown or the weights do not fit it.
    """
    if card.architecture not in ARCHITECTURES:
        raise ModelFileError(
            f"model {card.name} needs the architecture {card.architecture!r}, which this geocalc does not have"
        )
    architecture = ARCHITECTURES[card.architecture]
    references = torch.zeros(elements.N_ELEMENTS + 1, dtype=torch.float64)
    for symbol, energy in card.reference_energies.items():
        references[elements.symbols().index(symbol)] = energy
    scales = Scales(energy=card.energy_scale, forces=card.force_scale, references=references)
    with torch.random.fork_rng(devices=[]):
        network = architecture.build(architecture.settings.parse(card.settings, f"model {card.name}: settings"))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(f"the weights of {card.name} do not fit its card: {' '.join(str(error).split())}") from None
    return EnergyModel(network, scales, card.repulsion_reach, card.reads_tags)


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
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for but no CUDA device is available; use cpu or auto")
    return chosen


def write_card(folder: Path, card: ModelCard) -> None:
    """Write `model.yaml`."""
    (folder / CARD).write_text(yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, width=120))


def _read_weights(path: Path, card: ModelCard) -> dict[str, torch.Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read the weights of {card.name}: {path}: {error.strerror or error}") from None
    if content.startswith(LFS_POINTER):
        raise ModelFileError(f"{path} is a Git LFS pointer, not weights; fetch the file itself with `git lfs pull`")
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.weights_sha256:
        raise ModelFileError(
            f"{path} has SHA-256 {digest[:12]}..., the card says {card.weights_sha256[:12]}...: "
            f"the file is damaged, truncated or was changed; install the model again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ModelFileError(f"{path} is not a safetensors file: {error}") from None
