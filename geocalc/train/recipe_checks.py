"""Checks that the parts of a recipe for energies fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from geocalc.architectures.catalog import ARCHITECTURES
from geocalc.core.energies import EnergyKind
from geocalc.core.units import in_ev
from geocalc.errors import InputError, RecipeError
from geocalc.frames.learned.catalog import build_canonicalizer
from geocalc.frames.policy import FramePick, FrameSource, frame_policy
from geocalc.graphs.supernodes import Supernodes
from geocalc.potentials.card import PotentialSettings, Task
from geocalc.potentials.network import ForceMode
from geocalc.train.base_recipe import find_architecture
from geocalc.train.settings import Training

if TYPE_CHECKING:
    from geocalc.train.recipe import Recipe


def check_recipe(recipe: Recipe, where: str) -> None:
    """Refuse a recipe whose parts do not fit together.

    Args:
        recipe: to be checked.
        where: its origin, for messages.
    Raises:
        RecipeError: two settings contradict each other, or the network cannot be built.
    """
    check_architecture(recipe.model, recipe.training, where)
    check_rewiring(recipe.model, where)
    check_forces(recipe, where)
    check_canonicalizer(recipe, where)
    check_task(recipe, where)
    check_levels(recipe, where)
    check_data(recipe, where)


def check_architecture(model: PotentialSettings, training: Training, where: str) -> None:
    """Refuse an unknown architecture, invalid settings, and a penalty that the network lacks."""
    architecture = find_architecture(model, ARCHITECTURES, where)
    settings = architecture.settings.parse(model.settings, f"{where}: model.settings")
    try:
        with torch.random.fork_rng(devices=[]):
            network = architecture.build(settings)
    except InputError as error:
        raise RecipeError(f"{where}: model.settings: {error}") from None
    penalized = training.penalty_weight or training.penalty_weight_end
    if penalized and not network.penalty().requires_grad:
        raise RecipeError(
            f"{where}: training.penalty_weight is set, but {model.architecture} with these settings"
            " has no penalty; set it to 0, or use regnn with l_relaxed above 0"
        )
    try:
        model.graph.check(network.max_neighbors)
    except InputError as error:
        raise RecipeError(f"{where}: model.graph: {error}") from None


def check_rewiring(model: PotentialSettings, where: str) -> None:
    """Refuse reductions of the graph that cannot be combined."""
    merges = model.supernodes is not Supernodes.NONE
    if (model.drop_subsurface or model.adsorbate_edges or merges) and not model.reads_tags:
        raise RecipeError(
            f"{where}: drop_subsurface, adsorbate_edges and supernodes go by tags; set"
            " model.reads_tags: true"
        )
    if model.drop_subsurface and merges:
        raise RecipeError(
            f"{where}: subsurface atoms can only be removed or merged, not both; set"
            " drop_subsurface or supernodes"
        )
    if merges and model.repulsion_reach is not None:
        raise RecipeError(
            f"{where}: supernodes have no short-range repulsion; leave repulsion_reach out"
        )
    if model.supernodes is Supernodes.ONE and model.settings.get("compact_tables"):
        raise RecipeError(
            f"{where}: compact tables have no row for a node of all elements; set compact_tables:"
            " false"
        )


def check_forces(recipe: Recipe, where: str) -> None:
    """Refuse losses on outputs that the network does not have, and unknown frame policies."""
    training, model = recipe.training, recipe.model
    named = [("model.frames", model.frames), ("training.frames", training.frames)]
    if training.final_stage:
        named.append(("training.final_stage.frames", training.final_stage.frames))
    for key, name in named:
        try:
            frame_policy(name)
        except InputError as error:
            raise RecipeError(f"{where}: `{key}`: {error}") from None
    policies = [frame_policy(name) for key, name in named if key != "model.frames"]
    if training.consistency_weight and any(
        policy.pick is not FramePick.STOCHASTIC for policy in policies
    ):
        raise RecipeError(
            f"{where}: training.consistency_weight compares two random frames; set training.frames"
            " to a policy that draws them, such as stochastic, or the weight to 0"
        )
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
    """Refuse learned frames without a canonicalizer, and a canonicalizer that is not used or cannot
    be built.
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
    """Refuse settings of another task."""
    if recipe.training.add_layers_probability and (
        recipe.task is not Task.S2EF or recipe.about.energy_kind is not EnergyKind.ADSORPTION
    ):
        raise RecipeError(
            f"{where}: training.add_layers_probability is for task: s2ef with about.energy_kind:"
            " adsorption, since other energies change with every layer; set it to 0"
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
    by_force = (
        "force_weight",
        "direct_force_weight",
        "gradient_target_weight",
        "substrate_weight",
        "consistency_weight",
    )
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
    """Refuse levels of theory without names or data, or a network for one level."""
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
    if recipe.model.settings.get("n_levels", 1) != len(names):
        raise RecipeError(
            f"{where}: there are {len(names)} levels of theory; set model.settings.n_levels:"
            f" {len(names)}"
        )


def check_data(recipe: Recipe, where: str) -> None:
    """Refuse unknown units, and rules that the data cannot follow."""
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
            f"{where}: data.validation_fraction and data.test_fraction leave nothing to train on;"
            " make them smaller"
        )
