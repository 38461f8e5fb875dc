"""Properties of nodes and graphs learned by the common training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geocalc.errors import NonFiniteError, RecipeError
from geocalc.properties.data import Split, read_split
from geocalc.properties.metrics import PropertyErrors, property_errors
from geocalc.properties.model import PropertyModel, spread_of
from geocalc.properties.recipe import (
    LossKind,
    PropertyRecipe,
    PropertyTraining,
    build_network,
    read_property_recipe,
)
from geocalc.properties.samples import (
    GraphBatch,
    GraphSample,
    collate_graphs,
    rotate_graphs,
    signed_permutations,
)
from geocalc.train.descent import REMEDY, descend, mean_of_processes
from geocalc.train.loop import Errors, Evaluation, TrainingProgress, fit
from geocalc.train.run import Run, run_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VALIDATION = "validation"  # name of the held-out graphs in logs and metrics
NODES = 4096  # of graphs that are predicted together, about: one glass, or a hundred molecules


@dataclass(frozen=True)
class PropertyTask:
    """A recipe and its graphs, for the training loop; see `geocalc.train.loop.TrainingTask`."""

    recipe: PropertyRecipe
    split: Split
    fabric: Fabric
    losses: tuple[str, ...] = ("loss",)
    fixed: tuple[str, ...] = ("task", "model", "data")

    @property
    def settings(self) -> PropertyTraining:
        """See `TrainingTask`."""
        return self.recipe.training

    @cached_property
    def turns(self) -> Tensor:
        """Rotations and reflections of a cube, (48, 3, 3)."""
        return signed_permutations()

    def read(self, path: Path) -> PropertyRecipe:
        """See `TrainingTask`."""
        return read_property_recipe(path)

    def start(self) -> Run[PropertyModel]:
        """See `TrainingTask`."""
        return start_property(self.recipe, self.split.training)

    def before(self, run: Run[PropertyModel], device: torch.device) -> Errors | None:
        """See `TrainingTask`."""
        return None

    def batches(self, run: Run[PropertyModel], steps: range) -> Iterator[tuple[int, GraphBatch]]:
        """See `TrainingTask`; every epoch goes through all training graphs in an order of its own,
        a function of seed and step.
        """
        samples, settings = self.split.training, self.settings
        size, rank, processes = settings.batch_size, self.fabric.global_rank, self.fabric.world_size
        for step in steps:
            places = [
                _place(number, len(samples), settings.seed)
                for number in range(step * size, (step + 1) * size)
            ]
            batch = collate_graphs([samples[place] for place in places[rank::processes]])
            if settings.rotate and batch.inputs.edge_vec is not None:
                draws = np.random.default_rng((settings.seed, step, rank)).integers(
                    len(self.turns), size=batch.inputs.n_graphs
                )
                batch = rotate_graphs(batch, self.turns[torch.from_numpy(draws)])
            yield step, batch

    def update(self, run: Run[PropertyModel], batch: GraphBatch, step: int) -> Tensor:
        """See `TrainingTask`; the loss in units of the targets' spread."""
        return descend(
            run, self.settings, step, self.fabric, lambda: self._backward(run.model, batch, step)
        )

    def _backward(self, model: PropertyModel, batch: GraphBatch, step: int) -> Tensor:
        batch = batch.to(self.fabric.device)
        n = mean_of_processes(self.fabric, batch.counted.sum().double())
        with self.fabric.autocast():
            found = model.network(batch.inputs)
        wanted = (batch.targets - model.mean) / model.spread
        loss = (_loss(found[batch.counted] - wanted[batch.counted], self.settings.loss) / n).float()
        if not math.isfinite(float(loss.detach())):
            raise NonFiniteError(f"the loss is {float(loss.detach())} at step {step}; {REMEDY}")
        loss.backward()
        return loss.detach()[None]

    def score(self, model: PropertyModel, device: torch.device, whole: bool) -> Errors:
        """See `TrainingTask`."""
        errors = errors_per_target(model.to(device), self.split.validation, device)
        return {VALIDATION: named(errors)}

    def error(self, errors: Errors, model: PropertyModel) -> float:
        """See `TrainingTask`; mean squared error in units of the variance, 1 - R2."""
        return 1 - errors[VALIDATION]["r2"]


def train_property(
    recipe: PropertyRecipe,
    folder: Path,
    data_folder: Path,
    fabric: Fabric,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    judge: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Path:
    """Train a recipe in `folder`, from its last checkpoint if there is one.

    Args:
        recipe: what to train.
        folder: of the run.
        data_folder: where what is computed from the data is kept.
        fabric, report, judge: see `geocalc.train.loop.fit`.
    Raises:
        InputError: the data cannot be read.
        RecipeError, NonFiniteError, RunFolderError: see `fit`.
    """
    return fit(
        PropertyTask(recipe, read_split(recipe.data, data_folder), fabric),
        folder,
        fabric,
        report,
        judge,
    )


def start_property(recipe: PropertyRecipe, training: Sequence[GraphSample]) -> Run[PropertyModel]:
    """A run before its first step, weights drawn from the recipe's seed.

    Raises:
        RecipeError: the network has another number of targets than the data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        network = build_network(recipe.model, recipe.name)
    n_targets = training[0].targets.shape[1]
    if network.n_targets != n_targets:
        raise RecipeError(
            f"{recipe.name}: the network gives {network.n_targets} targets, the data have"
            f" {n_targets}; set model.settings.n_targets: {n_targets}"
        )
    return run_of(
        PropertyModel(network, *spread_of(training)), recipe.training, betas=recipe.training.betas
    )


def errors_per_target(
    model: PropertyModel, samples: Sequence[GraphSample], device: torch.device
) -> list[PropertyErrors]:
    """Errors of each target over the rows that count."""
    counted = [sample.counted.numpy() for sample in samples]
    predicted = [
        rows[mask]
        for rows, mask in zip(predict_graphs(model, samples, device), counted, strict=True)
    ]
    known = [
        sample.targets.double().numpy()[mask] for sample, mask in zip(samples, counted, strict=True)
    ]
    n_targets = known[0].shape[1]
    return [
        property_errors([p[:, k] for p in predicted], [t[:, k] for t in known])
        for k in range(n_targets)
    ]


def predict_graph(model: PropertyModel, sample: GraphSample, device: torch.device) -> np.ndarray:
    """(rows, n_targets) float64, of every row."""
    return next(predict_graphs(model, [sample], device))


def predict_graphs(
    model: PropertyModel, samples: Sequence[GraphSample], device: torch.device
) -> Iterator[np.ndarray]:
    """What `predict_graph` gives for each sample, in order; small graphs are computed together."""
    before = np.cumsum([0, *(len(sample.types) for sample in samples)])
    for _, group in groupby(range(len(samples)), lambda k: before[k] // NODES):
        some = [samples[k] for k in group]
        with torch.no_grad():
            rows = model(collate_graphs(some).inputs.to(device)).double().cpu().numpy()
        yield from np.split(rows, np.cumsum([len(sample.targets) for sample in some])[:-1])


def named(errors: Sequence[PropertyErrors]) -> dict[str, float]:
    """Means over targets by name, and correlations of each target where there are several."""
    found = {
        name: float(np.mean([getattr(one, name) for one in errors])) for name in vars(errors[0])
    }
    if len(errors) > 1:
        found |= {f"pearson_{k}": one.pearson for k, one in enumerate(errors)}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _loss(difference: Tensor, kind: LossKind) -> Tensor:
    """Summed over rows, mean over targets."""
    return (difference.abs() if kind is LossKind.ABSOLUTE else difference.square()).mean(1).sum()


def _place(number: int, n: int, seed: int) -> int:
    """Which sample is the `number`-th to be learned from."""
    epoch, place = divmod(number, n)
    return int(_order(epoch, n, seed)[place])


@lru_cache(maxsize=2)  # a batch may begin in one epoch and end in the next
def _order(epoch: int, n: int, seed: int) -> np.ndarray:
    """The order in which an epoch goes through `n` samples."""
    return np.random.default_rng((seed, epoch)).permutation(n)
