"""A recipe: data that tells how one model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from geocalc.architectures import ARCHITECTURES
from geocalc.card import EnergyKind
from geocalc.errors import RecipeError
from geocalc.settings import Settings, override, read_yaml


class Source(Settings):
    """One file of labelled structures.

    The training energy is the stored energy, plus `info[add_energy]`, minus `info[subtract_energy]` where these are named: with
    `add_energy: e_ads` and `subtract_energy: e_relaxed` a relaxation's total energies become adsorption energies.
    """

    path: Path
    add_energy: str | None = None
    subtract_energy: str | None = None
    group_key: str = Field("sid", description="info key of the relaxation; frames of one group never fall in both splits")
    require: dict[str, bool] = Field(default_factory=dict, description="info flags a frame must have, e.g. converged: true")
    exclude_groups: tuple[str, ...] = Field((), description="values of `exclude_key` left out")
    exclude_key: str = "metal"
    weight: float = Field(1.0, gt=0, description="share of each epoch relative to the source's own size")


class Data(Settings):
    """Which structures, how they are filtered and how they are split."""

    sources: tuple[Source, ...] = Field(min_length=1)
    max_force: float = Field(10.0, gt=0, description="frames with a larger force (eV/A) on any atom are left out")
    max_jump: float | None = Field(None, gt=0, description="frames whose energy jumps (eV) against -F.dx are cut off there")
    validation_share: float = Field(0.1, gt=0, lt=1)
    split_salt: str = "geocalc"
    frames_per_group: int = Field(6, ge=1, description="frames drawn from each relaxation per epoch: first, last, random")


class References(Settings):
    """Per-atom energies fitted by least squares before training and added back to every prediction."""

    elements: tuple[str, ...] = Field((), description="elements with a reference; empty: every element of the data")


class Model(Settings):
    """The network and how it becomes a potential."""

    architecture: str
    settings: dict[str, Any] = Field(default_factory=dict)
    frames: str = Field("lattice", description="frame policy of the potential")
    force_mode: str = "gradient"
    repulsion_reach: float | None = Field(None, gt=0, lt=1)


class Training(Settings):
    """Optimisation; energies in eV, lengths in Angstrom."""

    steps: int = Field(ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.03, ge=0, lt=1)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    clip_norm: float = Field(10.0, gt=0)
    frames: str = Field("lattice-stochastic", description="frame policy while training")
    energy_weight: float = Field(1.0, ge=0)
    force_weight: float = Field(5.0, ge=0)
    direct_force_weight: float = Field(0.0, ge=0)
    gradient_target_weight: float = Field(0.0, ge=0, description="direct forces towards the gradient, detached")
    fixed_force_weight: float = Field(0.2, ge=0, description="weight of forces on atoms that are held fixed")
    precision: str = "32-true"
    seed: int = 0
    evaluate_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    log_every: int = Field(50, ge=1)
    max_seconds: float | None = Field(None, gt=0, description="stop and checkpoint after this wall time; resume continues")


class About(Settings):
    """What a card says beside numbers."""

    energy_kind: EnergyKind
    level_of_theory: str
    references: str = Field(description="zero of energy in words")
    domain: str
    tags: str = "oc20"
    licence: str = "MIT"
    data: tuple[str, ...] = Field((), description="data sets with licence and citation, one line each")
    limits: tuple[str, ...] = ()


class Recipe(Settings):
    """How one model is trained."""

    schema_version: int = Field(1, ge=1, le=1)
    name: str
    about: About
    model: Model
    data: Data
    references: References = References()
    training: Training


def read_recipe(path: Path, assignments: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe file, with `a.b=1` overrides.

    Raises:
        RecipeError: the file, a key or a value is not right; the message names the nearest allowed key.
    """
    recipe = Recipe.parse(override(read_yaml(path), assignments), str(path))
    check_architecture(recipe.model, str(path))
    return recipe


def check_architecture(model: Model, where: str) -> None:
    """Refuse an unknown architecture or unknown settings of it."""
    if model.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise RecipeError(f"{where}: unknown architecture `{model.architecture}`; known are {known}")
    ARCHITECTURES[model.architecture].settings.parse(model.settings, f"{where}: model.settings")
