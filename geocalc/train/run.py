"""State of a training run: model, optimizer and averaged weights, and its initialization."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from geocalc.architectures.catalog import ARCHITECTURES
from geocalc.data.store import Sample
from geocalc.errors import RecipeError
from geocalc.frames.learned.catalog import build_canonicalizer
from geocalc.graphs.reduction import Rewiring
from geocalc.nn.relaxed_weights import thetas
from geocalc.potentials.card import Task
from geocalc.potentials.network import EnergyModel
from geocalc.train.ema import WeightAverage
from geocalc.train.finetune import begin_with
from geocalc.train.optimizers import Muon, split_matrices
from geocalc.train.recipe import Recipe
from geocalc.train.references import fit_scales
from geocalc.train.settings import Optimization

# shorter memory of squared gradients than Adam's default: force losses change scale early
BETAS = (0.9, 0.99)


class Trainable(Protocol):
    """Interface of a model: a module that contains a network and its units."""

    @property
    def network(self) -> nn.Module:
        """Network to train."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation mode, as `torch.nn.Module.eval`."""
        ...

    def to(self, device: torch.device) -> Any:
        """Move to a device, as `torch.nn.Module.to`."""
        ...


Model = TypeVar("Model", bound=Trainable)


@dataclass(kw_only=True)
class Run(Generic[Model]):
    """State of a training run: model, optimizer and averaged weights."""

    model: Model
    optimizer: torch.optim.Optimizer
    average: WeightAverage

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self.model.to(device)
        for state in self.optimizer.state.values():
            state.update({name: value.to(device) for name, value in state.items()})
        self.average.to(device)

    def averaged(self) -> Model:
        """Copy the model with averaged weights; frozen weights stay bitwise equal."""
        model = copy.deepcopy(self.model)
        averages, parameters = self.average.weights(), model.network.named_parameters()
        moved = {name: averages[name] for name, parameter in parameters if parameter.requires_grad}
        model.network.load_state_dict(model.network.state_dict() | moved)
        model.eval()
        return model


def start_training(recipe: Recipe, training: Sequence[Sample]) -> Run[EnergyModel]:
    """Initialize a run: weights from the seed of the recipe, or from the model to fine-tune."""
    settings = recipe.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = (
            build_model(recipe, training)
            if recipe.start is None
            else begin_with(recipe, recipe.start, training)
        )
    return run_of(model, settings, settings.freeze)


def run_of(
    model: Model,
    settings: Optimization,
    frozen: Sequence[str] = (),
    betas: tuple[float, float] = BETAS,
) -> Run[Model]:
    """Create a run of a model.

    Args:
        model: model to train.
        settings: optimization settings.
        frozen: names of parts of the network that are not trained.
        betas: betas of Adam.
    Raises:
        RecipeError: the network has no such part, or nothing is left to train.
    """
    parameters = _trainable(model.network, frozen)
    relaxed = {
        theta.values for _, theta in thetas(model.network)
    }  # have a penalty of their own, which leaves their scale alone
    others = [one for one in parameters if one not in relaxed]
    groups: list[dict[str, Any]] = [{"params": others}]
    if settings.optimizer == "muon":
        matrices, others = split_matrices(model.network, others)
        groups = [{"params": others}, {"params": matrices, "matrices": True}]
    if relaxed:
        groups.append(
            {"params": [one for one in parameters if one in relaxed], "weight_decay": 0.0}
        )
    rate, decay = settings.learning_rate, settings.weight_decay
    optimizer: torch.optim.Optimizer = (
        Muon(groups, rate, betas, weight_decay=decay)
        if settings.optimizer == "muon"
        else torch.optim.AdamW(groups, rate, betas, weight_decay=decay, fused=True)
    )
    return Run(
        model=model, optimizer=optimizer, average=WeightAverage(model.network, settings.ema_decay)
    )


def build_model(recipe: Recipe, training: Sequence[Sample]) -> EnergyModel:
    """Build the network and units of a recipe; weights are drawn from the global seed."""
    architecture = ARCHITECTURES[recipe.model.architecture]
    network = architecture.build(architecture.settings.model_validate(recipe.model.settings))
    if recipe.model.canonicalizer is not None:
        network.canonicalizer = build_canonicalizer(recipe.model.canonicalizer, network.cutoff)
    return EnergyModel(
        network,
        fit_scales(
            training,
            recipe.level_elements,
            recipe.energy_levels,
            recipe.task,
            recipe.model.drop_subsurface,
        ),
        recipe.model.repulsion_reach,
        recipe.model.reads_tags,
        Rewiring(
            recipe.model.drop_subsurface, recipe.model.adsorbate_edges, recipe.model.supernodes
        ),
        displaces=recipe.task is Task.IS2RE,
        graph=recipe.model.graph,
    )


def _trainable(network: nn.Module, frozen: Sequence[str]) -> list[nn.Parameter]:
    """Return all parameters, those of frozen parts without gradient.

    Raises:
        RecipeError: the network has no such part, or nothing is left to train.
    """
    named = dict(network.named_parameters())
    for part in frozen:
        inside = [name for name in named if name == part or name.startswith(f"{part}.")]
        if not inside:
            raise RecipeError(
                f"training.freeze names {part!r}, which the network does not have; its parts:"
                f" {_parts(network)}"
            )
        for name in inside:
            named[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise RecipeError("training.freeze leaves nothing to train; take something out of it")
    return list(named.values())


def _parts(network: nn.Module) -> str:
    return ", ".join(sorted({name.split(".")[0] for name, _ in network.named_parameters()}))
