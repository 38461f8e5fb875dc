"""The work of `geocalc train`: devices, folders, and a new or resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lightning_fabric import Fabric

from geocalc.cli.warnings import collect_warnings
from geocalc.core.devices import choose_device
from geocalc.core.process import configure_process
from geocalc.core.settings import override, read_yaml
from geocalc.errors import InputError
from geocalc.potentials.load import load_model
from geocalc.tasks import read_any_recipe, train_recipe
from geocalc.train.anchors import PARENT, labels_of
from geocalc.train.base_recipe import BaseRecipe
from geocalc.train.checkpoint import steps_done
from geocalc.train.curve import draw_curve
from geocalc.train.finetune import tuned_values
from geocalc.train.loop import Evaluation, TrainingProgress
from geocalc.train.recipe import Recipe, parse_recipe
from geocalc.train.run_files import CHECKPOINT, METRICS, read_log
from geocalc.train.run_settings import TrainSettings
from geocalc.train.settings import FineTuning
from geocalc.train.stopping import is_over
from geocalc.train.tensorboard import Scalars, require_tensorboard

RUNS = Path("runs")
LABELS = {
    "energy_mae": "energy MAE (eV)",
    "force_mae": "force MAE, free atoms (eV/A)",
    "force_null": "force MAE of predicting zero",
    "position_mae": "position MAE (A)",
}


def train_command(
    recipe_path: Path,
    out: Path | None,
    resume: bool,
    assignments: tuple[str, ...],
    settings: TrainSettings,
    report: Callable[[TrainingProgress], None] | None = None,
    begin: str | None = None,
    teacher: str | None = None,
) -> str | None:
    """Train a recipe file; returns a sentence that says how far it came, in the first process
    alone.

    Args:
        recipe_path: YAML.
        out: run folder, by default `runs/<name>`.
        resume: go on from its checkpoint.
        assignments: `a.b=1` overrides.
        settings: devices and processes, and what is logged.
        report: told of progress.
        begin: model to go on with; `recipe_path` may then be a file of labeled structures.
        teacher: model that labels displaced copies of the relaxed structures of that file, which
            need no forces.
    Raises:
        RecipeError, InputError: the recipe, its data, or the folder is not right.
        MissingDependencyError: tensorboard is wanted and not installed.
    """
    if settings.tensorboard:
        require_tensorboard()
    if teacher is not None and (begin is None or _is_recipe(recipe_path)):
        raise InputError(
            "--teacher labels the structures of a file for a model to be fine-tuned on them; give"
            " the file in place of a recipe, and the model with --from"
        )
    recipe = (
        read_any_recipe(recipe_path, assignments)
        if begin is None
        else _tuned(recipe_path, begin, assignments, teacher, out)
    )
    folder = out or RUNS / recipe.name
    if (folder / CHECKPOINT).exists() and not resume:
        raise InputError(
            f"{folder} holds a training run already; continue with --resume, or choose another"
            " --out"
        )
    if not 1 <= settings.devices <= recipe.training.batch_size:
        raise InputError(
            f"--devices is {settings.devices}; it must be between 1 and training.batch_size"
            f" ({recipe.training.batch_size})"
        )
    kind = choose_device(settings.device).type
    configure_process(settings.threads)
    fabric = Fabric(
        accelerator=kind,
        devices=settings.devices,
        precision=recipe.training.precision,
        strategy="auto",
    )
    if settings.devices > 1:
        fabric.launch()
    scalars = (
        Scalars(folder, steps_done(folder / CHECKPOINT))
        if settings.tensorboard and fabric.is_global_zero
        else None
    )
    with collect_warnings():
        _train(recipe, folder, fabric, report, scalars)
    if not fabric.is_global_zero:
        return None
    draw_curve(folder)
    done, steps, patience = (
        steps_done(folder / CHECKPOINT),
        recipe.training.steps,
        recipe.training.patience,
    )
    over = is_over(read_log(folder), patience)
    if done < steps and not over:
        return (
            f"{folder}: stopped after {done} of {steps} steps; the same command with --resume"
            " goes on"
        )
    early = (
        f" after {done} of {steps} steps, since {patience} evaluations brought no smaller error"
        if over
        else ""
    )
    return (
        _compared(folder)
        + f"{folder}: done{early}; `geocalc register {folder} --name NAME` makes it a model"
    )


def _train(
    recipe: BaseRecipe,
    folder: Path,
    fabric: Fabric,
    report: Callable[[TrainingProgress], None] | None,
    scalars: Scalars | None,
) -> None:
    """Train, and tell whoever listens."""

    def progressed(now: TrainingProgress) -> None:
        if report is not None:
            report(now)
        if scalars is not None:
            scalars.progress(now)

    def evaluated(now: Evaluation) -> None:
        if scalars is not None:
            scalars.evaluation(now)

    try:
        train_recipe(recipe, folder, folder.parent / "data", fabric, progressed, evaluated)
    finally:
        if scalars is not None:
            scalars.close()


def _tuned(
    path: Path, begin: str, assignments: tuple[str, ...], teacher: str | None, out: Path | None
) -> Recipe:
    """Make the recipe that continues from a model, out of another recipe or a file of labeled
    structures; its group `finetuning` holds every choice that `training` does not.
    """
    if not _is_recipe(path):
        chosen = tuple(one for one in assignments if one.startswith(("finetuning.", "finetuning=")))
        tuning = FineTuning.parse(
            override({"finetuning": {}}, chosen)["finetuning"] or {}, "--set finetuning"
        )
        if teacher is None:
            values = tuned_values(begin, path, tuning)
        else:
            labels = labels_of(path, teacher, (RUNS if out is None else out.parent) / "data")
            values = tuned_values(begin, labels, tuning, group_key=PARENT)
        return parse_recipe(override(values, assignments), f"the recipe made for {path}")
    start = {"model": begin, "hash": load_model(begin, device="cpu").hash}
    values = {"finetuning": {}} | override(read_yaml(path), assignments) | {"start": start}
    return parse_recipe(values, str(path))


def _is_recipe(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml")


def _compared(folder: Path) -> str:
    """A table of the errors on held-out structures before and after, empty where the run did not
    begin with a model.
    """
    measured = json.loads((folder / METRICS).read_text())
    lines = []
    for source, before in measured.get("before", {}).items():
        after = measured["validation"][source]
        lines.append(f"{source}, {after['n']} held-out structures".ljust(60) + "before     after")
        for name in (name for name in LABELS if name in after):
            lines.append(f"  {LABELS[name]}".ljust(60) + f"{before[name]:<10.4f} {after[name]:.4f}")
    return "".join(line + "\n" for line in lines)
