"""The training loop. Read it top to bottom: data, model, schedule, then evaluate, save, step, log."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from lightning_fabric import Fabric
from torch import nn

from geocalc.architectures import ARCHITECTURES
from geocalc.errors import NonFiniteError
from geocalc.frames import frame_policy
from geocalc.neighbors import build_graph
from geocalc.potential import EnergyModel, ForceMode, NetworkPotential, evaluate
from geocalc.train.batches import Labels, Schedule, collate
from geocalc.train.checkpoint import load_checkpoint, save_checkpoint
from geocalc.train.ema import WeightAverage
from geocalc.train.loss import Losses, loss
from geocalc.train.metrics import measure
from geocalc.train.prepare import prepare
from geocalc.train.recipe import Recipe, Training
from geocalc.train.references import fit_scales
from geocalc.train.store import Sample, read_store

log = logging.getLogger(__name__)
BETAS = (0.9, 0.99)  # shorter memory of squared gradients than Adam's default: force losses change scale early
N_EVALUATED = 400  # validation samples scored during training; the whole split is scored at the end


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    energy: float
    forces: float
    seconds: float
    done_here: int


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
        NonFiniteError: the loss is no longer a number.
    """
    settings = recipe.training
    fabric.seed_everything(settings.seed, verbose=False)
    samples = read_store(prepare(recipe, data_folder))
    training = [s for s in samples if not s.validation]
    validation = [s for s in samples if s.validation]
    schedule = Schedule(samples, recipe)

    model = build_model(recipe, training)
    optimizer = torch.optim.AdamW(
        model.network.parameters(), lr=settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay
    )
    average = WeightAverage(model.network, settings.ema_decay)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    first = load_checkpoint(folder / "checkpoint", model.network, optimizer, average)
    model.to(fabric.device)
    for state in optimizer.state.values():
        state.update({name: value.to(fabric.device) for name, value in state.items() if name != "step"})
    average.to(fabric.device)

    started = time.monotonic()
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(step, settings)
        chosen = schedule.batch(step)[fabric.global_rank :: fabric.world_size]
        losses = take_step(model, [samples[i] for i in chosen], recipe, step, fabric)
        _share_gradients(model.network, fabric)
        nn.utils.clip_grad_norm_(model.network.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model.network)
        done = step + 1
        elapsed = time.monotonic() - started
        stopping = settings.max_seconds is not None and elapsed > settings.max_seconds
        if done % settings.log_every == 0:
            progress = Progress(
                step=done,
                steps=settings.steps,
                energy=float(losses.energy),
                forces=float(losses.forces),
                seconds=elapsed,
                done_here=done - first,
            )
            _write_log(folder, fabric, vars(progress))
            report(progress)
        if (done % settings.evaluate_every == 0 or done == settings.steps) and fabric.is_global_zero:
            some = validation if done == settings.steps else validation[:: max(1, len(validation) // N_EVALUATED)]
            errors = score(averaged_model(recipe, training, average), recipe, some, fabric.device)
            _write_log(folder, fabric, {"step": done, "seconds": elapsed, "validation": errors})
            if done == settings.steps:
                (folder / "metrics.json").write_text(json.dumps({"validation": errors, "steps": done}, indent=1) + "\n")
        if (done % settings.checkpoint_every == 0 or done == settings.steps or stopping) and fabric.is_global_zero:
            save_checkpoint(folder / "checkpoint", done, model.network, optimizer, average)
        if stopping:
            log.info("stopped after %d of %d steps; the same command with --resume goes on", done, settings.steps)
            break
    return folder


def take_step(model: EnergyModel, samples: list[Sample], recipe: Recipe, step: int, fabric: Fabric) -> Losses:
    """Forward, loss and backward of one batch; gradients are left on the parameters.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    settings = recipe.training
    systems, labels = collate(samples)
    systems = systems.to(fabric.device)
    labels = Labels(energy=labels.energy.to(fabric.device), forces=labels.forces.to(fabric.device))
    generator = torch.Generator().manual_seed((settings.seed << 32) + (step << 8) + fabric.global_rank)
    graph = build_graph(systems, model.network.cutoff, model.network.max_neighbors)
    mode = ForceMode.GRADIENT if settings.force_weight else ForceMode.NONE
    policy = frame_policy(settings.frames)
    with fabric.autocast():
        prediction = evaluate(model, systems, graph, policy, mode, training=True, generator=generator)
    losses = loss(prediction, prediction.direct_forces, systems, labels, settings, model.energy_scale)
    if not math.isfinite(float(losses.total.detach())):
        raise NonFiniteError(
            f"the loss is {float(losses.total)} at step {step}; lower learning_rate or clip_norm, then --resume"
        )
    losses.total.backward()
    return losses


def _share_gradients(network: nn.Module, fabric: Fabric) -> None:
    """Average gradients over processes, in one message; a loss on forces differentiates twice, which DDP's hooks do not follow."""
    if fabric.world_size == 1:
        return
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat = fabric.all_reduce(torch.cat([grad.flatten() for grad in grads]), reduce_op="mean")
    for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def build_model(recipe: Recipe, training: list[Sample]) -> EnergyModel:
    """Network and units of a recipe, weights drawn from the global seed."""
    architecture = ARCHITECTURES[recipe.model.architecture]
    network = architecture.build(architecture.settings.model_validate(recipe.model.settings))
    return EnergyModel(
        network, fit_scales(training, recipe.references.elements), recipe.model.repulsion_reach, recipe.model.reads_tags
    )


def averaged_model(recipe: Recipe, training: list[Sample], average: WeightAverage) -> EnergyModel:
    """A copy of the model with averaged weights, for evaluation and for shipping."""
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe, training)
    model.network.load_state_dict(average.weights(), strict=False)
    return model.eval()


def score(model: EnergyModel, recipe: Recipe, samples: list[Sample], device: torch.device) -> dict[str, dict[str, float]]:
    """Errors of the model as a potential with one frame, by source file."""
    potential = NetworkPotential(
        model=model.to(device), policy=frame_policy("cell"), force_mode=ForceMode(recipe.model.force_mode)
    )
    found = {}
    for number, source in enumerate(recipe.data.sources):
        some = [s for s in samples if s.source == number]
        if some:
            found[str(source.path)] = asdict(measure(potential, some, device))
    return found


def rate(step: int, settings: Training) -> float:
    """Share of the learning rate at a step: linear warm-up, then half a cosine to zero."""
    warmup = max(1, int(settings.warmup_share * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))


def _write_log(folder: Path, fabric: Fabric, entry: dict[str, object]) -> None:
    if fabric.is_global_zero:
        with (folder / "log.jsonl").open("a") as handle:
            handle.write(json.dumps(entry) + "\n")
