"""Time training steps of the direct model with and without torch.compile, in turn.

Usage:
    GEOCALC_DATA=... python workflows/forward-speed/compiled.py [--steps 40]

The model is the recipe of faenet-is2re on its data (energy and displacements). Networks with
gradient forces are left out: compiled code cannot be differentiated twice.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import click
import torch
from lightning_fabric import Fabric
from run import interleaved

from geocalc.core import configure_process
from geocalc.potentials import EnergyModel
from geocalc.train import (
    MicroBatch,
    batch_loader,
    batches,
    load_samples,
    read_recipe,
    start_training,
    take_step,
)

ROOT = Path(__file__).parents[2]
DATA = ROOT / "runs" / "direct-is2re" / "data"


@click.command()
@click.option("--steps", default=40, show_default=True)
def main(steps: int) -> None:
    """Run and print."""
    configure_process()
    fabric = Fabric(accelerator="cpu", devices=1)
    recipe = read_recipe(ROOT / "models" / "faenet-is2re" / "recipe.yaml")
    samples = load_samples(recipe, DATA, fabric)
    run = start_training(recipe, samples.training)
    drawn = [
        batch for _, batch in batches(batch_loader(samples, recipe, run.model, fabric), range(8), 0)
    ]

    def stepping(model: EnergyModel, some: list[tuple[MicroBatch, ...]]) -> Callable[[], object]:
        ahead = cycle(some)
        return lambda: take_step(model, next(ahead), recipe, 0, fabric)

    compiled = copy.deepcopy(run.model)
    compiled.network.compile(dynamic=True)
    functions = {"eager": stepping(run.model, drawn), "compiled": stepping(compiled, drawn)}
    begun = time.perf_counter()
    for _ in drawn:
        functions["compiled"]()
    took = time.perf_counter() - begun  # compilers are other processes
    found = interleaved(functions, steps, clock=time.process_time)
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread, processor time, median of {steps}"
    )
    print(f"first {len(drawn)} compiled steps, compiling included: {took:.0f} s")
    for name, seconds in found.items():
        print(f"  {name:<10}{seconds * 1e3:8.1f} ms  {seconds / found['eager']:.2f}")
    print(f"paid back after {(took / (found['eager'] - found['compiled'])):.0f} steps")


if __name__ == "__main__":
    main()
