"""The training loop. Read it top to bottom: data, model, schedule, then evaluate, save, step, log."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor, nn

from geocalc.architectures import ARCHITECTURES
from geocalc.card import Task
from geocalc.errors import InputError, NonFiniteError, RecipeError
from geocalc.frames import frame_policy
from geocalc.frames.sampling import N_DRAWS
from geocalc.neighbors import build_graph
from geocalc.potential import EnergyModel, ForceMode, NetworkPotential, evaluate
from geocalc.rewiring import Rewiring, keep_atoms
from geocalc.run_folder import write_whole
from geocalc.systems import Systems
from geocalc.train.batches import Labels, Schedule, collate
from geocalc.train.checkpoint import COUNTERS, load_checkpoint, save_checkpoint
from geocalc.train.checks import check_samples
from geocalc.train.ema import WeightAverage
from geocalc.train.finetune import begin_with
from geocalc.train.loss import Losses, loss, pair_loss
from geocalc.train.metrics import measure
from geocalc.train.noise import disturbed
from geocalc.train.pair_metrics import pair_errors, pair_predictions
from geocalc.train.prepare import prepare
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.references import fit_scales
from geocalc.train.run_files import CHECKPOINT, METRICS, RECIPE, append_log, make_folder, read_log, trim_log
from geocalc.train.store import Sample, read_store

BETAS = (0.9, 0.99)  # shorter memory of squared gradients than Adam's default: force losses change scale early
REMEDY = "go on from the last checkpoint with --resume and a lower training.learning_rate or training.clip_norm"
N_EVALUATED = 400  # validation samples behind the learning curve; metrics.json is of the whole split


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    energy: float
    vectors: float
    seconds: float
    done_here: int


@dataclass(kw_only=True)
class Run:
    """What training changes: the model, the moments of the optimiser, and the average of the weights."""

    model: EnergyModel
    optimizer: torch.optim.Optimizer
    average: WeightAverage

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self.model.to(device)
        for state in self.optimizer.state.values():
            state.update({name: value.to(device) for name, value in state.items() if name != "step"})
        self.average.to(device)

    def averaged(self) -> EnergyModel:
        """A copy of the model with averaged weights, for evaluation and for shipping."""
        model = copy.deepcopy(self.model)
        model.network.load_state_dict(model.network.state_dict() | self.average.weights())
        return model.eval()


def train(
    recipe: Recipe,
    folder: Path,
    data_folder: Path,
    fabric: Fabric,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a recipe in `folder`, from its last checkpoint if there is one.

    Args:
        recipe: what to train.
        folder: run folder: recipe.yaml, log.jsonl, checkpoint/, and when the last step is done metrics.json.
        data_folder: where prepared data are kept.
        fabric: devices and precision.
        report: called every `log_every` steps.
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
    validation = [s for s in samples if s.validation]
    schedule = Schedule(samples, recipe)
    run = start(recipe, [s for s in samples if not s.validation])
    first = _open_folder(recipe, folder, run, fabric)
    run.to(fabric.device)
    if recipe.start is not None and first == 0 and fabric.is_global_zero:
        errors = score(copy.deepcopy(run.model).eval(), recipe, validation, fabric.device)
        append_log(folder, {"step": 0, "seconds": 0.0, "validation": errors})

    started = time.monotonic()
    for step in range(first, settings.steps):
        chosen = schedule.batch(step)[fabric.global_rank :: fabric.world_size]
        losses = update(run, [samples[i] for i in chosen], recipe, step, fabric)
        done, elapsed = step + 1, time.monotonic() - started
        last = done == settings.steps
        stopping = settings.max_seconds is not None and bool(fabric.broadcast(elapsed > settings.max_seconds))
        if done % settings.log_every == 0:
            energy, vectors = _mean_of_processes(fabric, torch.stack((losses.energy, losses.vectors))).tolist()
            progress = Progress(
                step=done,
                steps=settings.steps,
                energy=energy,
                vectors=vectors,
                seconds=elapsed,
                done_here=done - first,
            )
            if fabric.is_global_zero:
                append_log(folder, vars(progress))
                report(progress)
        if (done % settings.evaluate_every == 0 or last) and fabric.is_global_zero:
            averaged = run.averaged()
            errors = score(averaged, recipe, validation[:: max(1, len(validation) // N_EVALUATED)], fabric.device)
            append_log(folder, {"step": done, "seconds": elapsed, "validation": errors})
            if last:
                errors = score(averaged, recipe, validation, fabric.device)
                measured = {"validation": errors, "steps": done} | _before(recipe, folder)
                write_whole(folder / METRICS, [json.dumps(measured, indent=1) + "\n"])
        if (done % settings.checkpoint_every == 0 or last or stopping) and fabric.is_global_zero:
            save_checkpoint(folder / CHECKPOINT, done, run.model.network, run.optimizer, run.average)
        if stopping:
            break
    return folder


def _before(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Errors of the model that a run began with."""
    first = next((entry for entry in read_log(folder) if entry["step"] == 0), None)
    return {} if recipe.start is None or first is None else {"before": first["validation"]}


def load_samples(recipe: Recipe, data_folder: Path, fabric: Fabric) -> list[Sample]:
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
    n_validation = sum(s.validation for s in samples)
    if n_validation in (0, len(samples)):
        empty = "validate" if n_validation == 0 else "train"
        raise InputError(
            f"the split leaves no frame to {empty} on ({len(samples)} frames of {len({s.group for s in samples})} relaxations); "
            "set data.validation_share or data.split_salt to something else, or give more relaxations"
        )
    return samples


def start(recipe: Recipe, training: Sequence[Sample]) -> Run:
    """A run before its first step: weights drawn from the recipe's seed, nothing averaged yet."""
    settings = recipe.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = build_model(recipe, training) if recipe.start is None else begin_with(recipe, recipe.start, training)
    parameters = _trainable(model.network, settings.freeze)
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay, fused=True
    )
    return Run(model=model, optimizer=optimizer, average=WeightAverage(model.network, settings.ema_decay))


def _trainable(network: nn.Module, frozen: Sequence[str]) -> list[nn.Parameter]:
    """Every parameter; those of frozen parts will get no gradient.

    Raises:
        RecipeError: the network has no such part, or nothing is left to train.
    """
    named = dict(network.named_parameters())
    for part in frozen:
        inside = [name for name in named if name == part or name.startswith(f"{part}.")]
        if not inside:
            raise RecipeError(f"training.freeze names {part!r}, which the network does not have; its parts: {_parts(network)}")
        for name in inside:
            named[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise RecipeError("training.freeze leaves nothing to train; take something out of it")
    return list(named.values())


def _parts(network: nn.Module) -> str:
    return ", ".join(sorted({name.split(".")[0] for name, _ in network.named_parameters()}))


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
    for part in ("model", "data", "references", "start"):
        if getattr(old, part) != getattr(new, part):
            raise RecipeError(f"{folder} holds a run with another `{part}` in its recipe; choose another --out for this one")


def update(run: Run, samples: list[Sample], recipe: Recipe, step: int, fabric: Fabric) -> Losses:
    """One step of the optimiser on one batch.

    Raises:
        NonFiniteError: the loss or its gradient is NaN or infinite; nothing has been changed.
    """
    settings = recipe.training
    for group in run.optimizer.param_groups:
        group["lr"] = settings.rate_at(step)
    losses = take_step(run.model, samples, recipe, step, fabric)
    _share_gradients(run.model.network, fabric)
    norm = nn.utils.clip_grad_norm_(run.model.network.parameters(), settings.clip_norm)
    if not math.isfinite(float(norm)):
        raise NonFiniteError(f"the gradient of the loss is {float(norm)} at step {step}; {REMEDY}")
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.average.update(run.model.network)
    return losses


def take_step(model: EnergyModel, samples: list[Sample], recipe: Recipe, step: int, fabric: Fabric) -> Losses:
    """Forward, loss and backward of one batch; gradients are left on the parameters.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    settings, places = recipe.training, range(fabric.global_rank, fabric.world_size * len(samples), fabric.world_size)
    if settings.noise is not None:
        rngs = [np.random.default_rng((settings.seed, step, place)) for place in places]
        samples = disturbed(samples, settings.noise, rngs)
    systems, labels = seen(model, samples)
    systems, labels = systems.to(fabric.device), labels.to(fabric.device)
    generator = torch.Generator().manual_seed((settings.seed << 32) + (step << 8))
    draws = torch.rand(fabric.world_size * len(samples), N_DRAWS, generator=generator, dtype=torch.float64)[list(places)]
    graph = build_graph(systems, model.network.cutoff, model.network.max_neighbors)
    graph = model.rewiring.edges(graph, systems)
    by_gradient = settings.force_weight or settings.gradient_target_weight
    mode = ForceMode.GRADIENT if by_gradient else ForceMode.NONE
    policy, across = frame_policy(settings.frames_at(step)), partial(_mean_of_processes, fabric)
    with fabric.autocast():
        prediction = evaluate(model, systems, graph, policy, mode, training=True, generator=draws)
    if recipe.task is Task.IS2RE:
        losses = pair_loss(prediction, systems, labels, settings, model.energy_scale, model.force_scale, across)
    else:
        losses = loss(prediction, prediction.direct_forces, systems, labels, settings, model.energy_scale, across)
    total = float(losses.total.detach())
    if not math.isfinite(total):
        raise NonFiniteError(f"the loss is {total} at step {step}; {REMEDY}")
    losses.total.backward()
    return losses


def seen(model: EnergyModel, samples: Sequence[Sample]) -> tuple[Systems, Labels]:
    """The atoms that the network sees, and their labels."""
    systems, labels = collate(samples)
    kept = model.rewiring.atoms(systems)
    return keep_atoms(systems, kept), replace(labels, forces=labels.forces[kept], displacement=labels.displacement[kept])


def _mean_of_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """The mean over processes, where there are several."""
    return values if fabric.world_size == 1 else torch.as_tensor(fabric.all_reduce(values, reduce_op="mean"))


def _share_gradients(network: nn.Module, fabric: Fabric) -> None:
    """Average gradients over processes, in one message; a loss on forces differentiates twice, which DDP's hooks do not follow."""
    if fabric.world_size == 1:
        return
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat: Any = fabric.all_reduce(torch.cat([grad.flatten() for grad in grads]), reduce_op="mean")
    for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def build_model(recipe: Recipe, training: Sequence[Sample]) -> EnergyModel:
    """Network and units of a recipe, weights drawn from the global seed."""
    architecture = ARCHITECTURES[recipe.model.architecture]
    network = architecture.build(architecture.settings.model_validate(recipe.model.settings))
    return EnergyModel(
        network,
        fit_scales(training, recipe.references.elements, recipe.task),
        recipe.model.repulsion_reach,
        recipe.model.reads_tags,
        Rewiring(recipe.model.drop_subsurface, recipe.model.adsorbate_edges),
        displaces=recipe.task is Task.IS2RE,
    )


def score(model: EnergyModel, recipe: Recipe, samples: list[Sample], device: torch.device) -> dict[str, dict[str, float]]:
    """Errors of the model as a potential with one frame, by source file."""
    potential = NetworkPotential(model=model.to(device), policy=frame_policy("cell"), force_mode=recipe.model.force_mode)
    found = {}
    for number, source in enumerate(recipe.data.sources):
        some = [s for s in samples if s.source == number]
        if some:
            found[str(source.path)] = asdict(
                pair_errors(pair_predictions(potential, some, device))
                if recipe.task is Task.IS2RE
                else measure(potential, some, device)
            )
    return found
