"""Does torch.compile pay? A training step of the direct model, eager and compiled, interleaved in one run, one thread.

Usage: python workflows/forward-speed/compiled.py [--repeats 9]
Energies and displacements of batches of 16 adslabs that differ in size, so that shapes are dynamic, as in training. Potentials are not
timed: their training differentiates forces, which compiled code cannot be differentiated twice for; the run says how it fails.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial

import click
import torch
from run import interleaved

from geocalc import from_atoms
from geocalc.architectures import ARCHITECTURES
from geocalc.frames import frame_policy
from geocalc.neighbors import Graph, build_graph
from geocalc.potential import EnergyModel, ForceMode, Scales, evaluate
from geocalc.process import settle_process
from geocalc.systems import Systems, concatenate
from geocalc.train.recipe import read_recipe
from models import MODELS, adslab

SIZES = ((3, 3, 3), (3, 3, 4))  # layers of atoms that take turns, so that no two batches in a row have one shape
BATCHES, BATCH = 4, 16

Data = tuple[Systems, Graph]
Step = Callable[[ForceMode], None]


def batches() -> list[Data]:
    """Adslabs with their edges."""
    made = []
    for k in range(BATCHES):
        systems = concatenate([from_atoms(adslab(n + BATCH * k, SIZES[(n + k) % 2])) for n in range(BATCH)])
        made.append((systems, build_graph(systems, 5.0)))
    return made


def stepper(model: EnergyModel, data: list[Data]) -> Step:
    """A training step that takes the next batch each time."""
    optimizer, policy, counter = (
        torch.optim.AdamW(model.network.parameters(), lr=1e-4),
        frame_policy("rotations-2d"),
        iter(range(10**9)),
    )

    def step(mode: ForceMode) -> None:
        systems, graph = data[next(counter) % len(data)]
        levels = torch.zeros(systems.n_systems, dtype=torch.int64)
        told = evaluate(model, systems, graph, levels, policy, mode, training=True, generator=torch.Generator().manual_seed(0))
        vectors = told.forces if mode is ForceMode.GRADIENT else told.displacement
        (told.energy.abs().mean() + vectors.abs().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@click.command()
@click.option("--repeats", default=9, show_default=True)
def main(repeats: int) -> None:
    """Run and print."""
    settle_process()
    torch.manual_seed(0)
    chosen = read_recipe(MODELS / "faenet-is2re" / "recipe.yaml").model
    architecture = ARCHITECTURES[chosen.architecture]
    network = architecture.build(architecture.settings.model_validate(chosen.settings))
    scales = Scales(energy=1.0, forces=1.0, references=torch.zeros(119))
    eager = EnergyModel(network, scales, None, displaces=True)
    compiled = copy.deepcopy(eager)
    compiled.network = torch.compile(compiled.network, dynamic=True)
    data = batches()
    first, second = stepper(eager, data), stepper(compiled, data)
    start = time.process_time()
    second(ForceMode.NONE)
    print(f"torch {torch.__version__}, 1 thread, float32; compiling took {time.process_time() - start:.0f} s of processor time")
    times = interleaved(
        {"eager": partial(first, ForceMode.NONE), "compiled": partial(second, ForceMode.NONE)}, repeats, time.process_time
    )
    for name, seconds in times.items():
        print(f"  step of the direct model, {name}: {seconds * 1e3:.0f} ms, {seconds / times['eager']:.2f} of eager")
    try:
        second(ForceMode.GRADIENT)
    except RuntimeError as error:
        print(f"  step with gradient forces, compiled: {str(error).splitlines()[0][:120]}")


if __name__ == "__main__":
    main()
