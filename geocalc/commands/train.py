"""What `geocalc train` does: devices, folders, and a resumed or a fresh run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric

from geocalc.errors import InputError
from geocalc.registry import choose_device
from geocalc.train.curve import draw_curve
from geocalc.train.loop import Progress, train
from geocalc.train.recipe import read_recipe


def train_command(
    recipe_path: Path,
    out: Path | None,
    resume: bool,
    assignments: tuple[str, ...] = (),
    device: str = "auto",
    devices: int = 1,
    threads: int = 1,
    report: Callable[[Progress], None] | None = None,
) -> Path:
    """Train a recipe file; returns the run folder.

    Args:
        recipe_path: YAML. out: run folder, by default `runs/<name>`. resume: go on from its checkpoint.
        assignments: `a.b=1` overrides. device: auto, cpu or cuda. devices: processes. threads: of each process on a CPU.
        report: told of progress.
    Raises:
        RecipeError, InputError: the recipe, its data, or the folder is not right.
    """
    recipe = read_recipe(recipe_path, assignments)
    folder = out or Path("runs") / recipe.name
    if (folder / "checkpoint").exists() and not resume:
        raise InputError(f"{folder} holds a training run already; go on with --resume, or choose another --out")
    kind = choose_device(device).type
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # smooth cutoffs make tiny numbers, which are slow and mean nothing
    fabric = Fabric(accelerator=kind, devices=devices, precision=recipe.training.precision, strategy="auto")  # type: ignore[arg-type]
    if devices > 1:
        fabric.launch()
    train(recipe, folder, folder.parent / "data", fabric, report or (lambda progress: None))
    if fabric.is_global_zero:
        draw_curve(folder)
    return folder
