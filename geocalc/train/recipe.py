"""A recipe: data that tells how one model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from geocalc.architectures.catalog import ARCHITECTURES
from geocalc.core.nearest import nearest
from geocalc.core.settings import Settings, override, read_yaml
from geocalc.core.units import in_ev
from geocalc.data.settings import Data
from geocalc.errors import InputError, RecipeError
from geocalc.frames.learned.catalog import build_canonicalizer
from geocalc.frames.policy import FramePolicy, FrameSource, frame_policy
from geocalc.graphs.strategies import GraphSettings
from geocalc.graphs.supernodes import Supernodes
from geocalc.nn.relaxed_weights import thetas
from geocalc.potentials.card import EnergyKind, Task
from geocalc.potentials.network import ForceMode
from geocalc.train.settings import Training


class FittedReferences(Settings):
    """Per-atom energies fitted by least squares before training and added back to every prediction."""

    elements: tuple[str, ...] = Field(
        (), description="elements with a reference; empty: every element of the data"
    )


class Model(Settings):
    """The network and how it becomes a potential."""

    architecture: str
    settings: dict[str, Any] = Field(default_factory=dict)
    frames: str = Field("averaged", description="frame policy of the potential")
    canonicalizer: dict[str, Any] | None = Field(
        None,
        description=(
            "name and settings of what gives the frames of the policy `learned`, see"
            " geocalc.frames.learned"
        ),
    )
    reads_tags: bool = Field(
        True,
        description=(
            "whether the energy may depend on tags; without, relabeling atoms changes nothing"
        ),
    )
    force_mode: ForceMode = ForceMode.GRADIENT
    graph: GraphSettings = Field(
        GraphSettings(), description="which atoms are connected; how far and how many, settings say"
    )
    drop_subsurface: bool = Field(False, description="the network sees no atoms with tag 0")
    adsorbate_edges: bool = Field(
        False, description="the network sees only edges that touch the adsorbate"
    )
    supernodes: Supernodes = Field(
        Supernodes.NONE,
        description="the network sees atoms with tag 0 as one node, or as one per-element",
    )
    repulsion_reach: float | None = Field(None, gt=0, lt=1)


class OtherLevel(Settings):
    """A level of theory beside that of `about`, with energies of a zero of their own; users choose
    it by its name.
    """

    level: str = Field(min_length=1)
    energy_kind: EnergyKind
    level_of_theory: str
    reference_text: str = Field(description="zero of energy in words")
    elements: tuple[str, ...] = Field(
        (), description="elements with a reference at this level; empty: every element"
    )


class About(Settings):
    """What a card says beside numbers; energies are of one level of theory unless the recipe names
    others.
    """

    level: str = Field("", description="short name of the level of theory, where there are several")
    energy_kind: EnergyKind
    level_of_theory: str
    reference_text: str = Field(description="zero of energy in words")
    domain: str
    license: str = "MIT"
    data: tuple[str, ...] = Field(
        (), description="data sets with license and citation, one line each"
    )
    limits: tuple[str, ...] = ()


class Start(Settings):
    """The model that a run begins with: its weights and scales; references are fitted to what it
    misses.
    """

    model: str = Field(description="name or folder")
    hash: str = Field(description="first 16 digits of the SHA-256 of its weights")


class Recipe(Settings):
    """How one model is trained."""

    schema_version: int = Field(1, ge=1, le=1)
    name: str
    task: Task = Task.S2EF
    start: Start | None = None
    about: About
    model: Model
    data: Data
    fitted_references: FittedReferences = FittedReferences()
    other_levels: tuple[OtherLevel, ...] = ()
    training: Training

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels of theory, by the network's numbers."""
        return (self.about.level, *(other.level for other in self.other_levels))

    @property
    def needs_forces(self) -> bool:
        """Whether structures without forces are left out: unless the model gives energies alone and
        learns from them alone.
        """
        training = self.training
        weights = (
            training.force_weight,
            training.direct_force_weight,
            training.gradient_target_weight,
        )
        return self.task is Task.S2EF and (
            self.model.force_mode is not ForceMode.NONE or any(weights)
        )

    @property
    def learns_fixed(self) -> bool:
        """Whether forces on fixed atoms are learned."""
        return self.training.fixed_force_weight > 0 and self.needs_forces

    @property
    def uses_tags(self) -> bool:
        """Whether tags are read: by the network, or to tell subsurface atoms apart in the loss."""
        return self.model.reads_tags or self.training.substrate_weight > 0

    @property
    def source_levels(self) -> tuple[int, ...]:
        """The number of each source's level."""
        return tuple(
            0 if source.level is None else self.levels.index(source.level)
            for source in self.data.sources
        )

    @property
    def energy_levels(self) -> tuple[int | None, ...]:
        """The number of the level whose references and scale each source's energies belong to; None
        where they are not learned.
        """
        pairs = zip(self.data.sources, self.source_levels, strict=True)
        return tuple(level if source.energies else None for source, level in pairs)

    @property
    def level_elements(self) -> tuple[tuple[str, ...], ...]:
        """The elements with a reference at each level."""
        return (self.fitted_references.elements, *(other.elements for other in self.other_levels))


def read_recipe(path: Path, assignments: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe file, with `a.b=1` overrides.

    Raises:
        RecipeError: the file, a key or a value is not right; the message names the nearest allowed
            key.
    """
    return parse_recipe(override(read_yaml(path), assignments), str(path))


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from its values, checked as a whole; `where` says in messages where they came from.

    Raises:
        RecipeError: see `read_recipe`.
    """
    recipe = Recipe.parse(values, where)
    check_architecture(recipe.model, recipe.training, where)
    check_rewiring(recipe.model, where)
    check_forces(recipe, where)
    check_canonicalizer(recipe, where)
    check_task(recipe, where)
    check_levels(recipe, where)
    check_data(recipe, where)
    return recipe


def single_frame(model: Model) -> FramePolicy:
    """The policy that gives the fewest frames: the learned one where that is the model's, else one
    of the lattice.
    """
    return frame_policy("single" if model.canonicalizer is None else model.frames)


def check_architecture(model: Model, training: Training, where: str) -> None:
    """Refuse an unknown architecture, settings that it cannot be built from, and a penalty of what
    it does not have.
    """
    if model.architecture not in ARCHITECTURES:
        raise RecipeError(
            f"{where}: unknown architecture `{model.architecture}`;"
            f" {nearest(model.architecture, sorted(ARCHITECTURES))}"
        )
    architecture = ARCHITECTURES[model.architecture]
    settings = architecture.settings.parse(model.settings, f"{where}: model.settings")
    try:
        with torch.random.fork_rng(devices=[]):
            network = architecture.build(settings)
    except InputError as error:
        raise RecipeError(f"{where}: model.settings: {error}") from None
    if (training.breaking_weight or training.breaking_weight_end) and next(
        thetas(network), None
    ) is None:
        raise RecipeError(
            f"{where}: training.breaking_weight is for networks with relaxed weights, which"
            f" {model.architecture} with these settings is not; set it to 0"
        )
    try:
        model.graph.check(network.max_neighbors)
    except InputError as error:
        raise RecipeError(f"{where}: model.graph: {error}") from None


def check_rewiring(model: Model, where: str) -> None:
    """Refuse what a network cannot be shown."""
    merges = model.supernodes is not Supernodes.NONE
    if (model.drop_subsurface or model.adsorbate_edges or merges) and not model.reads_tags:
        raise RecipeError(
            f"{where}: drop_subsurface, adsorbate_edges and supernodes go by tags; set"
            " model.reads_tags: true"
        )
    if model.drop_subsurface and merges:
        raise RecipeError(
            f"{where}: subsurface atoms are left out or merged, not both; set drop_subsurface or"
            " supernodes"
        )
    if merges and model.repulsion_reach is not None:
        raise RecipeError(
            f"{where}: a supernode is no atom that others could come too close to; leave"
            " repulsion_reach out"
        )
    if model.supernodes is Supernodes.ONE and model.settings.get("compact_tables"):
        raise RecipeError(
            f"{where}: compact tables have no row for a node of all elements; set compact_tables:"
            " false"
        )


def check_forces(recipe: Recipe, where: str) -> None:
    """Refuse losses that nothing in the network answers to, and frames that have no name."""
    training, model = recipe.training, recipe.model
    named = [("model.frames", model.frames), ("training.frames", training.frames)]
    if training.final_stage:
        named.append(("training.final_stage.frames", training.final_stage.frames))
    for key, name in named:
        try:
            frame_policy(name)
        except InputError as error:
            raise RecipeError(f"{where}: `{key}`: {error}") from None
    if training.accumulate > training.batch_size:
        raise RecipeError(
            f"{where}: `training.accumulate` is {training.accumulate}, more micro-batches than"
            f" training.batch_size has structures ({training.batch_size})"
        )
    if training.first_steps < 1:
        raise RecipeError(
            f"{where}: `training.final_stage.steps` must be fewer than training.steps"
            f" ({training.steps}), of which they are a part"
        )
    head = bool(model.settings.get("direct_forces"))
    wanting = [
        key for key in ("direct_force_weight", "gradient_target_weight") if getattr(training, key)
    ]
    if model.force_mode is ForceMode.DIRECT:
        wanting.append("model.force_mode: direct")
    if wanting and not head:
        raise RecipeError(
            f"{where}: `{wanting[0]}` needs a network with a force head; set"
            " model.settings.direct_forces: true"
        )
    weights = (
        training.energy_weight,
        training.force_weight,
        training.direct_force_weight,
        training.gradient_target_weight,
    )
    if not any((*weights, training.displacement_weight)):
        raise RecipeError(
            f"{where}: every loss weight is zero, so there is nothing to learn; set"
            " training.energy_weight"
        )


def check_canonicalizer(recipe: Recipe, where: str) -> None:
    """Refuse learned frames without a canonicalizer, and a canonicalizer that nothing asks or that
    cannot be built.
    """
    model, training = recipe.model, recipe.training
    frames = {"model.frames": model.frames, "training.frames": training.frames}
    if training.final_stage:
        frames["training.final_stage.frames"] = training.final_stage.frames
    learned = [
        key for key, name in frames.items() if frame_policy(name).source is FrameSource.LEARNED
    ]
    if model.canonicalizer is None:
        if learned:
            raise RecipeError(
                f"{where}: `{learned[0]}: learned` needs a canonicalizer; set model.canonicalizer:"
                " {name: vn-pointnet}"
            )
        return
    try:
        with torch.random.fork_rng(devices=[]):
            build_canonicalizer(model.canonicalizer, cutoff=1.0)
    except (InputError, RecipeError) as error:
        raise RecipeError(f"{where}: model.canonicalizer: {error}") from None
    if "model.frames" not in learned:
        raise RecipeError(
            f"{where}: there is a canonicalizer, but model.frames is {model.frames!r}; set"
            " model.frames: learned"
        )
    if len(learned) == 1 and "canonicalizer" not in training.freeze:
        raise RecipeError(
            f"{where}: training.frames is {training.frames!r}, so the canonicalizer would learn"
            " nothing; set training.frames: learned, or training.freeze: [canonicalizer] to keep"
            " it as drawn"
        )


def check_task(recipe: Recipe, where: str) -> None:
    """Refuse what does not go together with the task."""
    if recipe.training.add_layers_probability and (
        recipe.task is not Task.S2EF or recipe.about.energy_kind is not EnergyKind.ADSORPTION
    ):
        raise RecipeError(
            f"{where}: training.add_layers_probability is for task: s2ef with about.energy_kind: adsorption, since"
            " other energies change with every layer; set it to 0"
        )
    model, training, pairs = (
        recipe.model,
        recipe.training,
        [source.relaxed is not None for source in recipe.data.sources],
    )
    if recipe.task is Task.S2EF:
        if (
            any(pairs)
            or training.noise
            or training.displacement_weight
            or training.displacement_weight_end
        ):
            raise RecipeError(
                f"{where}: data.sources.relaxed, training.noise and training.displacement_weight"
                " are for task: is2re; add that"
            )
        return
    if not all(source.energies for source in recipe.data.sources):
        raise RecipeError(
            f"{where}: data.sources.energies: false is for task: s2ef; relaxed energies are all"
            " that is2re learns"
        )
    if not all(pairs):
        raise RecipeError(
            f"{where}: task is2re needs the relaxed structures of every source; name their file as"
            " `relaxed`"
        )
    if model.force_mode is not ForceMode.NONE:
        raise RecipeError(
            f"{where}: a model of relaxed energies has no forces; set model.force_mode: none"
        )
    by_force = ("force_weight", "direct_force_weight", "gradient_target_weight", "substrate_weight")
    wrong = [name for name in by_force if getattr(training, name)]
    if wrong:
        raise RecipeError(f"{where}: training.{wrong[0]} is for task: s2ef; set it to 0")
    if training.displacement_weight_end is not None and not training.displacement_weight:
        raise RecipeError(
            f"{where}: training.displacement_weight_end is where displacement_weight goes; set that"
            " above 0"
        )
    if bool(training.displacement_weight) is not bool(model.settings.get("direct_forces")):
        raise RecipeError(
            f"{where}: displacements need both model.settings.direct_forces: true, the head of the"
            " network that gives vectors, and a training.displacement_weight above 0"
        )


def check_levels(recipe: Recipe, where: str) -> None:
    """Refuse levels of theory without names or data, and a network that does not tell them apart."""
    names = recipe.levels
    if len(names) > 1 and (not all(names) or len(set(names)) < len(names)):
        raise RecipeError(
            f"{where}: about.level and other_levels need a name each, all different; got"
            f" {', '.join(map(repr, names))}"
        )
    wanted = {
        source.level if source.level is not None else names[0] for source in recipe.data.sources
    }
    if wanted - set(names):
        raise RecipeError(
            f"{where}: data.sources name the level {sorted(wanted - set(names))[0]!r}; describe it"
            " in about.level or other_levels"
        )
    if set(names) - wanted:
        raise RecipeError(
            f"{where}: no source has the level {sorted(set(names) - wanted)[0]!r}; name it in"
            " data.sources.level"
        )
    empty = set(range(len(names))) - set(recipe.energy_levels)
    if empty:
        raise RecipeError(
            f"{where}: no source has energies of the level {names[min(empty)]!r}, so it could not"
            " say any; add one"
        )
    if recipe.start is not None and None in recipe.energy_levels:
        raise RecipeError(
            f"{where}: fine-tuning fits references to the energies of every source; leave energies:"
            " false out"
        )
    if recipe.model.settings.get("n_levels", 1) != len(names):
        raise RecipeError(
            f"{where}: there are {len(names)} levels of theory; set model.settings.n_levels:"
            f" {len(names)}"
        )


def check_data(recipe: Recipe, where: str) -> None:
    """Refuse units that are none, and rules that the data cannot follow."""
    data = recipe.data
    for number, source in enumerate(data.sources):
        try:
            in_ev(source.energy_unit)
        except InputError as error:
            raise RecipeError(f"{where}: `data.sources.{number}.energy_unit`: {error}") from None
    if data.max_jump is not None and not recipe.needs_forces:
        raise RecipeError(
            f"{where}: data.max_jump compares energies with forces, which are not read here; leave"
            " it out"
        )
    if data.test_fraction and data.validation_key is not None:
        raise RecipeError(
            f"{where}: data.test_fraction is drawn beside data.validation_fraction; with"
            " data.validation_key leave the test out with data.sources.exclude_key and"
            " exclude_groups"
        )
    if data.test_fraction + data.validation_fraction >= 1:
        raise RecipeError(
            f"{where}: data.validation_fraction and data.test_fraction leave nothing to train on; make"
            " them smaller"
        )
