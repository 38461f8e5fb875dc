"""Training task of energies, forces and displacements."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geocalc.data.checks import check_samples
from geocalc.data.prepare import prepare_store
from geocalc.data.store import Samples, read_store
from geocalc.errors import InputError
from geocalc.potentials.network import EnergyModel
from geocalc.train.loader import Batch, batch_loader, batches
from geocalc.train.loop import Errors, Evaluation, TrainingProgress, fit
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.run import Run, start_training
from geocalc.train.score import score, validation_error
from geocalc.train.settings import Training
from geocalc.train.steps import update

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# validation samples behind the learning curve; metrics.json is of the whole split
N_EVALUATED = 400


@dataclass(frozen=True)
class EnergyTask:
    """Recipe and prepared samples for the training loop; see `TrainingTask`."""

    recipe: Recipe
    samples: Samples
    fabric: Fabric
    losses: tuple[str, ...] = ("energy", "vectors")
    fixed: tuple[str, ...] = (
        "model",
        "data",
        "fitted_references",
        "other_levels",
        "start",
        "finetuning",
    )

    @property
    def settings(self) -> Training:
        """See `TrainingTask`."""
        return self.recipe.training

    def read(self, path: Path) -> Recipe:
        """See `TrainingTask`."""
        return read_recipe(path)

    def start(self) -> Run[EnergyModel]:
        """See `TrainingTask`."""
        return start_training(self.recipe, self.samples.training)

    def before(self, run: Run[EnergyModel], device: torch.device) -> Errors | None:
        """See `TrainingTask`."""
        return (
            None
            if self.recipe.start is None
            else self.score(copy.deepcopy(run.model).eval(), device, whole=True)
        )

    def batches(self, run: Run[EnergyModel], steps: range) -> Iterator[tuple[int, Batch]]:
        """See `TrainingTask`."""
        return batches(
            batch_loader(self.samples, self.recipe, run.model, self.fabric),
            steps,
            self.settings.workers,
        )

    def update(self, run: Run[EnergyModel], batch: Batch, step: int) -> Tensor:
        """See `TrainingTask`."""
        losses = update(run, batch, self.recipe, step, self.fabric)
        return torch.stack((losses.energy, losses.vectors))

    def score(self, model: EnergyModel, device: torch.device, whole: bool) -> Errors:
        """See `TrainingTask`."""
        held_out = self.samples.held_out
        return score(
            model,
            self.recipe,
            held_out if whole else held_out[:: max(1, len(held_out) // N_EVALUATED)],
            device,
        )

    def error(self, errors: Errors, model: EnergyModel) -> float:
        """See `TrainingTask`."""
        return validation_error(errors, self.recipe, model)


def train(
    recipe: Recipe,
    folder: Path,
    data_folder: Path,
    fabric: Fabric,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    judge: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Path:
    """Train a recipe in `folder`, from its last checkpoint if there is one.

    Args:
        recipe: what to train.
        folder: run folder: recipe.yaml, log.jsonl, checkpoint/, and when the last step is done
            metrics.json.
        data_folder: where prepared data are kept.
        fabric: devices and precision.
        report: called every `log_every` steps.
        judge: called after every evaluation. Both in the first process alone.
    Returns:
        `folder`.
    Raises:
        InputError: see `prepare_store`; also if the split leaves nothing to train on or nothing to
            validate on.
        RecipeError, NonFiniteError, RunFolderError: see `fit`.
    """
    return fit(
        EnergyTask(recipe, load_samples(recipe, data_folder, fabric), fabric),
        folder,
        fabric,
        report,
        judge,
    )


def load_samples(recipe: Recipe, data_folder: Path, fabric: Fabric) -> Samples:
    """Load the prepared samples of a recipe; one process prepares them, the others wait.

    Raises:
        InputError: see `prepare`; also if there are no training or no validation samples.
    """
    if fabric.is_global_zero:
        prepare_store(recipe, data_folder)
    fabric.barrier()
    samples = read_store(prepare_store(recipe, data_folder))
    if fabric.is_global_zero:
        check_samples(samples, [str(source.path) for source in recipe.data.sources])
    if not len(samples.training) or not len(samples.held_out):
        empty = "train" if len(samples.held_out) else "validate"
        raise InputError(
            f"the split leaves no frame to {empty} on ({len(samples)} frames of"
            f" {samples.sample_index.relaxation.max() + 1} relaxations); set"
            " data.validation_fraction or data.split_seed to something else, or give more"
            " relaxations"
        )
    return samples
