"""The training loop. Read it top to bottom: data, model, batches, then step, log, evaluate, save."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric

from geocalc.errors import InputError, RecipeError
from geocalc.run_folder import write_whole
from geocalc.train.checkpoint import COUNTERS, forget_others, load_checkpoint, save_best, save_checkpoint
from geocalc.train.checks import check_samples
from geocalc.train.feed import batches, feed_of
from geocalc.train.loss import Losses
from geocalc.train.prepare import prepare
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.run import Run, start
from geocalc.train.run_files import CHECKPOINT, METRICS, RECIPE, append_log, make_folder, read_log, trim_log
from geocalc.train.score import Errors, score, validation_error
from geocalc.train.steps import mean_of_processes, update
from geocalc.train.stopping import final_model, is_over, standing
from geocalc.train.store import Samples, read_store

N_EVALUATED = 400  # validation samples behind the learning curve; metrics.json is of the whole split


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: losses of the last step in eV and eV/Angstrom (displacements: Angstrom)."""

    step: int
    steps: int
    energy: float
    vectors: float
    learning_rate: float
    seconds: float
    done_here: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Errors on held-out structures along the way.

    Attributes:
        step: done so far. seconds: since this piece of the run began. validation: errors by source.
        error: see `validation_error`. kept: whether the averaged weights were kept as the best so far, for `training.patience`.
    """

    step: int
    seconds: float
    validation: Errors
    error: float
    kept: bool


def train(
    recipe: Recipe,
    folder: Path,
    data_folder: Path,
    fabric: Fabric,
    report: Callable[[Progress], None] = lambda progress: None,
    judge: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Path:
    """Train a recipe in `folder`, from its last checkpoint if there is one.

    Args:
        recipe: what to train.
        folder: run folder: recipe.yaml, log.jsonl, checkpoint/, and when the last step is done metrics.json.
        data_folder: where prepared data are kept.
        fabric: devices and precision.
        report: called every `log_every` steps. judge: called after every evaluation. Both in the first process alone.
    Returns:
        `folder`.
    Raises:
        InputError: see `prepare`; also if the split leaves nothing to train on or nothing to validate on.
        RecipeError: the folder holds a run of another network or other data.
        NonFiniteError: the loss or its gradient is no longer a number.
        RunFolderError: the folder cannot be written.
    """
    settings = recipe.training
    samples = load_samples(recipe, data_folder, fabric)
    run = start(recipe, samples.training)
    first = _open_folder(recipe, folder, run, fabric)
    run.to(fabric.device)
    if recipe.start is not None and first == 0 and fabric.is_global_zero:
        errors = score(copy.deepcopy(run.model).eval(), recipe, samples.held_out, fabric.device)
        append_log(folder, {"step": 0, "seconds": 0.0, "validation": errors})
    if _is_over(recipe, folder, fabric):
        return folder

    started = time.monotonic()
    for step, batch in batches(feed_of(samples, recipe, run.model, fabric), range(first, settings.steps), settings.workers):
        losses = update(run, batch, recipe, step, fabric)
        done, elapsed = step + 1, time.monotonic() - started
        stopping = settings.max_seconds is not None and bool(fabric.broadcast(elapsed > settings.max_seconds))
        last = done == settings.steps
        if done % settings.log_every == 0:
            progress = _progress(losses, recipe, done, done - first, elapsed, fabric)
            if fabric.is_global_zero:
                append_log(folder, vars(progress))
                report(progress)
        if done % settings.evaluate_every == 0 or last:
            if fabric.is_global_zero:
                judge(_evaluate(run, recipe, folder, samples.held_out, done, elapsed, fabric.device))
            last = last or _is_over(recipe, folder, fabric)
        if last and fabric.is_global_zero:
            _finish(run, recipe, folder, samples.held_out, done, fabric.device)
        if (done % settings.checkpoint_every == 0 or last or stopping) and fabric.is_global_zero:
            save_checkpoint(folder / CHECKPOINT, done, run.model.network, run.optimizer, run.average)
            forget_others(folder / CHECKPOINT, standing(read_log(folder)).step)
        if last or stopping:
            break
    return folder


def _is_over(recipe: Recipe, folder: Path, fabric: Fabric) -> bool:
    """Whether patience is at its end; the first process knows."""
    patience = recipe.training.patience
    return patience is not None and bool(fabric.broadcast(fabric.is_global_zero and is_over(read_log(folder), patience)))


def _progress(losses: Losses, recipe: Recipe, done: int, done_here: int, elapsed: float, fabric: Fabric) -> Progress:
    energy, vectors = mean_of_processes(fabric, torch.stack((losses.energy, losses.vectors))).tolist()
    return Progress(
        step=done,
        steps=recipe.training.steps,
        energy=energy,
        vectors=vectors,
        learning_rate=recipe.training.rate_at(done - 1),
        seconds=elapsed,
        done_here=done_here,
    )


def _evaluate(
    run: Run, recipe: Recipe, folder: Path, held_out: Samples, done: int, elapsed: float, device: torch.device
) -> Evaluation:
    """Errors of the averaged weights on a part of the held-out samples, logged; with patience the best weights are kept."""
    averaged = run.averaged()
    errors = score(averaged, recipe, held_out[:: max(1, len(held_out) // N_EVALUATED)], device)
    error = validation_error(errors, recipe, averaged)
    kept = recipe.training.patience is not None and standing(read_log(folder)).is_beaten_by(error)
    if kept:
        save_best(folder / CHECKPOINT, done, averaged.network)
    evaluation = Evaluation(step=done, seconds=elapsed, validation=errors, error=error, kept=kept)
    append_log(folder, vars(evaluation))
    return evaluation


def _finish(run: Run, recipe: Recipe, folder: Path, held_out: Samples, done: int, device: torch.device) -> None:
    """Write the errors of the model that the run stands for on all held-out samples."""
    errors = score(final_model(run, folder, recipe.training.patience), recipe, held_out, device)
    measured: dict[str, Any] = {"validation": errors, "steps": done}
    before = next((entry for entry in read_log(folder) if entry["step"] == 0), None)
    if recipe.start is not None and before is not None:
        measured["before"] = before["validation"]
    write_whole(folder / METRICS, [json.dumps(measured, indent=1) + "\n"])


def load_samples(recipe: Recipe, data_folder: Path, fabric: Fabric) -> Samples:
    """The prepared samples of a recipe; one process prepares them, the others wait.

    Raises:
        InputError: see `prepare`; also if one side of the split is empty.
    """
    if fabric.is_global_zero:
        prepare(recipe, data_folder)
    fabric.barrier()
    samples = read_store(prepare(recipe, data_folder))
    if fabric.is_global_zero:
        check_samples(samples, [str(source.path) for source in recipe.data.sources])
    if not len(samples.training) or not len(samples.held_out):
        empty = "train" if len(samples.held_out) else "validate"
        raise InputError(
            f"the split leaves no frame to {empty} on ({len(samples)} frames of {samples.known.relaxation.max() + 1} relaxations); "
            "set data.validation_share or data.split_salt to something else, or give more relaxations"
        )
    return samples


def _open_folder(recipe: Recipe, folder: Path, run: Run, fabric: Fabric) -> int:
    """Put the recipe into the run folder, restore its checkpoint into `run`, and return the number of steps done."""
    if (folder / CHECKPOINT / COUNTERS).is_file() and (folder / RECIPE).is_file():
        _refuse_other(read_recipe(folder / RECIPE), recipe, folder)
    done = load_checkpoint(folder / CHECKPOINT, run.model.network, run.optimizer, run.average)
    if fabric.is_global_zero:
        make_folder(folder)
        write_whole(folder / RECIPE, [yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)])
        trim_log(folder, done)
    fabric.barrier()
    return done


def _refuse_other(old: Recipe, new: Recipe, folder: Path) -> None:
    """Settings of the optimisation may change between pieces of a run; what is learned from what may not."""
    for part in ("model", "data", "references", "other_levels", "start"):
        if getattr(old, part) != getattr(new, part):
            raise RecipeError(f"{folder} holds a run with another `{part}` in its recipe; choose another --out for this one")
