"""What `geocalc train` does: devices, folders, and a resumed or a fresh run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lightning_fabric import Fabric

from geocalc.cli.warnings import told_at_the_end
from geocalc.core.process import configure_process
from geocalc.core.settings import override, read_yaml
from geocalc.errors import InputError
from geocalc.potentials.registry import choose_device, load_model
from geocalc.properties.recipe import PropertyRecipe, is_property_recipe, read_property_recipe
from geocalc.properties.task import train_property
from geocalc.train.checkpoint import steps_done
from geocalc.train.curve import draw_curve
from geocalc.train.finetune import tuned_values
from geocalc.train.loop import Evaluation, Progress
from geocalc.train.recipe import Recipe, parse_recipe, read_recipe
from geocalc.train.run_files import CHECKPOINT, METRICS, read_log
from geocalc.train.stopping import is_over
from geocalc.train.task import train
from geocalc.train.tensorboard import Scalars, require_tensorboard

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
    assignments: tuple[str, ...] = (),
    device: str = "auto",
    devices: int = 1,
    threads: int = 1,
    report: Callable[[Progress], None] | None = None,
    begin: str | None = None,
    tensorboard: bool = False,
) -> str | None:
    """Train a recipe file; returns a sentence that says how far it came, in the first process
    alone.

    Args:
        recipe_path: YAML.
        out: run folder, by default `runs/<name>`.
        resume: go on from its checkpoint.
        assignments: `a.b=1` overrides.
        device: auto, cpu or cuda.
        devices: processes.
        threads: of each process on a CPU.
        report: told of progress.
        begin: model to go on with; `recipe_path` may then be a file of labeled structures.
        tensorboard: keep the learning curve for TensorBoard too, in the run folder.
    Raises:
        RecipeError, InputError: the recipe, its data, or the folder is not right.
        MissingDependencyError: tensorboard is wanted and not installed.
    """
    if tensorboard:
        require_tensorboard()
    recipe = (
        _recipe(recipe_path, assignments)
        if begin is None
        else _tuned(recipe_path, begin, assignments)
    )
    folder = out or Path("runs") / recipe.name
    if (folder / CHECKPOINT).exists() and not resume:
        raise InputError(
            f"{folder} holds a training run already; go on with --resume, or choose another --out"
        )
    if not 1 <= devices <= recipe.training.batch_size:
        raise InputError(
            f"--devices is {devices}; it must be between 1 and training.batch_size"
            f" ({recipe.training.batch_size})"
        )
    kind = choose_device(device).type
    configure_process(threads)
    fabric = Fabric(
        accelerator=kind, devices=devices, precision=recipe.training.precision, strategy="auto"
    )
    if devices > 1:
        fabric.launch()
    scalars = (
        Scalars(folder, steps_done(folder / CHECKPOINT))
        if tensorboard and fabric.is_global_zero
        else None
    )
    with told_at_the_end():
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


def _recipe(path: Path, assignments: tuple[str, ...]) -> Recipe | PropertyRecipe:
    """The recipe of a file, of energies or of a property."""
    if is_property_recipe(read_yaml(path)):
        return read_property_recipe(path, assignments)
    return read_recipe(path, assignments)


def _train(
    recipe: Recipe | PropertyRecipe,
    folder: Path,
    fabric: Fabric,
    report: Callable[[Progress], None] | None,
    scalars: Scalars | None,
) -> None:
    """Train, and tell whoever listens."""

    def progressed(now: Progress) -> None:
        if report is not None:
            report(now)
        if scalars is not None:
            scalars.progress(now)

    def evaluated(now: Evaluation) -> None:
        if scalars is not None:
            scalars.evaluation(now)

    try:
        if isinstance(recipe, PropertyRecipe):
            train_property(recipe, folder, folder.parent / "data", fabric, progressed, evaluated)
        else:
            train(recipe, folder, folder.parent / "data", fabric, progressed, evaluated)
    finally:
        if scalars is not None:
            scalars.close()


def _tuned(path: Path, begin: str, assignments: tuple[str, ...]) -> Recipe:
    """The recipe that goes on with a model, from another recipe or from a file of labeled
    structures.
    """
    if path.suffix not in (".yaml", ".yml"):
        return parse_recipe(
            override(tuned_values(begin, path), assignments), f"the recipe made for {path}"
        )
    values = override(read_yaml(path), assignments)
    return parse_recipe(
        values | {"start": {"model": begin, "hash": load_model(begin, device="cpu").hash}},
        str(path),
    )


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
