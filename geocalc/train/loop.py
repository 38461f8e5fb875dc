"""Training loop of all tasks.

Read it from top to bottom: model, batches, then step, log, evaluation, checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol

import torch
import yaml

from geocalc.core.files import write_atomically
from geocalc.core.settings import Settings
from geocalc.errors import RecipeError
from geocalc.train.checkpoint import (
    COUNTERS,
    forget_others,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from geocalc.train.descent import mean_of_processes
from geocalc.train.run import Model, Run
from geocalc.train.run_files import (
    CHECKPOINT,
    METRICS,
    RECIPE,
    append_log,
    make_folder,
    read_log,
    trim_log,
)
from geocalc.train.settings import Optimization
from geocalc.train.stopping import best_evaluation, final_model, is_over

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Errors = dict[str, dict[str, float]]  # by source, then by name


class TrainingTask(Protocol, Generic[Model]):
    """Interface of a training task: data, loss and errors, which the loop itself does not know."""

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses that `update` returns."""
        ...

    @property
    def fixed(self) -> tuple[str, ...]:
        """Sections of the recipe that must not change when a run is resumed."""
        ...

    @property
    def recipe(self) -> Settings:
        """Recipe that is stored in the run folder."""
        ...

    @property
    def settings(self) -> Optimization:
        """Optimization settings."""
        ...

    def read(self, path: Path) -> Settings:
        """Read the recipe of a run folder."""
        ...

    def start(self) -> Run[Model]:
        """Create the state of a run before its first step."""
        ...

    def before(self, run: Run[Model], device: torch.device) -> Errors | None:
        """Compute the errors of a model to fine-tune before the first step; None for others."""
        ...

    def batches(self, run: Run[Model], steps: range) -> Iterator[tuple[int, Any]]:
        """Yield steps with the batches for `update`."""
        ...

    def update(self, run: Run[Model], batch: Any, step: int) -> torch.Tensor:
        """Take one optimizer step and return this process's part of the losses.

        The order is that of the property `losses`.
        """
        ...

    def score(self, model: Model, device: torch.device, whole: bool) -> Errors:
        """Compute validation errors, on all samples if `whole`, otherwise on a subset."""
        ...

    def error(self, errors: Errors, model: Model) -> float:
        """Reduce validation errors to one number by which runs are compared; smaller is better."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Progress of a run.

    Attributes:
        step: number of finished steps.
        steps: total number of steps.
        losses: losses of the last step by name; energies in eV, vectors in eV/Angstrom (forces) or
            Angstrom (displacements).
        learning_rate: learning rate of the last step.
        seconds: wall time since this run or its resumption began.
        done_here: steps since then.
    """

    step: int
    steps: int
    losses: dict[str, float]
    learning_rate: float
    seconds: float
    done_here: int

    def __str__(self) -> str:
        """Format step and losses in one line."""
        return f"{self.step}/{self.steps}  " + "  ".join(
            f"{name} {value:.4g}" for name, value in self.losses.items()
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Validation errors during a run.

    Attributes:
        step: number of finished steps.
        seconds: wall time since this run or its resumption began.
        validation: errors by source.
        error: see `TrainingTask.error`.
        kept: whether the averaged weights were saved as the best so far, for `training.patience`.
    """

    step: int
    seconds: float
    validation: Errors
    error: float
    kept: bool


def fit(
    task: TrainingTask[Model],
    folder: Path,
    fabric: Fabric,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    judge: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Path:
    """Go through a task in `folder`, from its last checkpoint if there is one.

    Args:
        task: what to learn.
        folder: run folder: recipe.yaml, log.jsonl, checkpoint/, and when the last step is done
            metrics.json.
        fabric: devices and precision.
        report: called every `log_every` steps.
        judge: called after every evaluation. Both in the first process alone.
    Returns:
        `folder`.
    Raises:
        RecipeError: the folder holds a run of another network or other data.
        NonFiniteError: the loss or its gradient is no longer a number.
        RunFolderError: the folder cannot be written.
    """
    settings = task.settings
    run = task.start()
    first = _open_folder(task, folder, run, fabric)
    run.to(fabric.device)
    if first == 0 and fabric.is_global_zero:
        before = task.before(run, fabric.device)
        if before is not None:
            append_log(folder, {"step": 0, "seconds": 0.0, "validation": before})
    if _is_over(settings, folder, fabric):
        return folder

    started = time.monotonic()
    for step, batch in task.batches(run, range(first, settings.steps)):
        losses = task.update(run, batch, step)
        done, elapsed = step + 1, time.monotonic() - started
        stopping = settings.max_seconds is not None and bool(
            fabric.broadcast(elapsed > settings.max_seconds)
        )
        last = done == settings.steps
        if done % settings.log_every == 0:
            found = dict(zip(task.losses, mean_of_processes(fabric, losses).tolist(), strict=True))
            if fabric.is_global_zero:
                report(_logged(folder, settings, found, done, done - first, elapsed))
        if done % settings.evaluate_every == 0 or last:
            if fabric.is_global_zero:
                judge(_evaluate(task, run, folder, done, elapsed, fabric.device))
            last = last or _is_over(settings, folder, fabric)
        if last and fabric.is_global_zero:
            _finish(task, run, folder, done, fabric.device)
        if (done % settings.checkpoint_every == 0 or last or stopping) and fabric.is_global_zero:
            save_checkpoint(
                folder / CHECKPOINT, done, run.model.network, run.optimizer, run.average
            )
            forget_others(folder / CHECKPOINT, best_evaluation(read_log(folder)).step)
        if last or stopping:
            break
    return folder


def _is_over(settings: Optimization, folder: Path, fabric: Fabric) -> bool:
    """Return whether the patience is exhausted; the first process decides for all."""
    patience = settings.patience
    return patience is not None and bool(
        fabric.broadcast(fabric.is_global_zero and is_over(read_log(folder), patience))
    )


def _logged(
    folder: Path,
    settings: Optimization,
    losses: dict[str, float],
    done: int,
    done_here: int,
    elapsed: float,
) -> TrainingProgress:
    """Write the progress to the log and return it."""
    rate = settings.rate_at(done - 1)
    progress = TrainingProgress(
        step=done,
        steps=settings.steps,
        losses=losses,
        learning_rate=rate,
        seconds=elapsed,
        done_here=done_here,
    )
    rest = {name: value for name, value in vars(progress).items() if name != "losses"}
    append_log(folder, {**rest, **losses})
    return progress


def _evaluate(
    task: TrainingTask[Model],
    run: Run[Model],
    folder: Path,
    done: int,
    elapsed: float,
    device: torch.device,
) -> Evaluation:
    """Evaluate the averaged weights on part of the validation samples and log the errors.

    With patience, weights that are the best so far are saved.
    """
    averaged = run.averaged()
    errors = task.score(averaged, device, whole=False)
    error = task.error(errors, averaged)
    kept = task.settings.patience is not None and best_evaluation(read_log(folder)).is_beaten_by(
        error
    )
    if kept:
        save_best(folder / CHECKPOINT, done, averaged.network)
    evaluation = Evaluation(step=done, seconds=elapsed, validation=errors, error=error, kept=kept)
    append_log(folder, vars(evaluation))
    return evaluation


def _finish(
    task: TrainingTask[Model], run: Run[Model], folder: Path, done: int, device: torch.device
) -> None:
    """Write the errors of the final model on all validation samples to metrics.json."""
    errors = task.score(final_model(run, folder, task.settings.patience), device, whole=True)
    measured: dict[str, Any] = {"validation": errors, "steps": done}
    before = next((entry for entry in read_log(folder) if entry["step"] == 0), None)
    if before is not None:
        measured["before"] = before["validation"]
    write_atomically(folder / METRICS, [json.dumps(measured, indent=1) + "\n"])


def _open_folder(task: TrainingTask[Model], folder: Path, run: Run[Model], fabric: Fabric) -> int:
    """Write the recipe to the run folder and restore its checkpoint into `run`.

    Returns:
        Number of finished steps.
    """
    if (folder / CHECKPOINT / COUNTERS).is_file() and (folder / RECIPE).is_file():
        _refuse_other(task.read(folder / RECIPE), task, folder)
    done = load_checkpoint(folder / CHECKPOINT, run.model.network, run.optimizer, run.average)
    if fabric.is_global_zero:
        make_folder(folder)
        write_atomically(
            folder / RECIPE,
            [yaml.safe_dump(task.recipe.model_dump(mode="json"), sort_keys=False)],
        )
        trim_log(folder, done)
    fabric.barrier()
    return done


def _refuse_other(old: Settings, task: TrainingTask[Model], folder: Path) -> None:
    """Check that a resumed run has the same task; only optimization settings may change."""
    for part in task.fixed:
        if getattr(old, part) != getattr(task.recipe, part):
            raise RecipeError(
                f"{folder} holds a run with another `{part}` in its recipe; choose another --out"
                " for this one"
            )
