"""What `geocalc train` does: devices, folders, and a resumed or a fresh run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_fabric import Fabric

from geocalc.commands.notes import told_at_the_end
from geocalc.errors import InputError
from geocalc.process import settle_process
from geocalc.registry import choose_device
from geocalc.train.checkpoint import steps_done
from geocalc.train.curve import draw_curve
from geocalc.train.loop import Progress, train
from geocalc.train.recipe import read_recipe
from geocalc.train.run_files import CHECKPOINT


def train_command(
    recipe_path: Path,
    out: Path | None,
    resume: bool,
    assignments: tuple[str, ...] = (),
    device: str = "auto",
    devices: int = 1,
    threads: int = 1,
    report: Callable[[Progress], None] | None = None,
) -> str | None:
    """Train a recipe file; returns a sentence that says how far it came, in the first process alone.

    Args:
        recipe_path: YAML. out: run folder, by default `runs/<name>`. resume: go on from its checkpoint.
        assignments: `a.b=1` overrides. device: auto, cpu or cuda. devices: processes. threads: of each process on a CPU.
        report: told of progress.
    Raises:
        RecipeError, InputError: the recipe, its data, or the folder is not right.
    """
    recipe = read_recipe(recipe_path, assignments)
    folder = out or Path("runs") / recipe.name
    if (folder / CHECKPOINT).exists() and not resume:
        raise InputError(f"{folder} holds a training run already; go on with --resume, or choose another --out")
    if not 1 <= devices <= recipe.training.batch_size:
        raise InputError(f"--devices is {devices}; it must be between 1 and training.batch_size ({recipe.training.batch_size})")
    kind = choose_device(device).type
    settle_process(threads)
    fabric = Fabric(accelerator=kind, devices=devices, precision=recipe.training.precision, strategy="auto")
    if devices > 1:
        fabric.launch()
    with told_at_the_end():
        train(recipe, folder, folder.parent / "data", fabric, report or (lambda progress: None))
    if not fabric.is_global_zero:
        return None
    draw_curve(folder)
    done, steps = steps_done(folder / CHECKPOINT), recipe.training.steps
    if done < steps:
        return f"{folder}: stopped after {done} of {steps} steps; the same command with --resume goes on"
    return f"{folder}: done; `geocalc register {folder} --name NAME` makes it a model"
