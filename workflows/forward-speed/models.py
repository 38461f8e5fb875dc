"""Time the models of this repository against each other: energy and forces, in turn, on one thread.

Usage:
    python workflows/forward-speed/models.py [--repeats 9]

Networks have the recipes of models/, random weights and several frame policies. Times are medians
of processor time, which depends less on other work on the machine than wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from run import interleaved

from geocalc import Systems, from_atoms
from geocalc.architectures import ARCHITECTURES
from geocalc.core import concatenate, configure_process
from geocalc.frames import frame_policy
from geocalc.graphs import NeighborCache, build_graph
from geocalc.potentials import EnergyModel, NetworkPotential, Scales
from geocalc.train import Model, read_recipe

MODELS = Path(__file__).parents[2] / "models"
MEASURED = (  # model and frames; the first is the reference
    ("faenet-sfa", "single"),
    ("faenet-sfa-small", "single"),
    ("schnet", "none"),
    ("faenet-sfa", "averaged"),
    ("faenet-sfa-small", "averaged"),
)
BATCHES = {  # structures, and layers of metal atoms
    "1 adslab of 13 atoms": (1, (2, 2, 3)),
    "32 adslabs of 13 atoms": (32, (2, 2, 3)),
    "1 adslab of 65 atoms": (1, (4, 4, 4)),
}
METALS, ADSORBATES = ("Cu", "Pt", "Ag", "Pd", "Ni", "Au", "Al", "Ir"), ("O", "C", "N", "H")


def adslab(number: int, size: tuple[int, int, int]) -> Atoms:
    """An atom on an fcc(111) slab, every atom a little off its place."""
    atoms = fcc111(METALS[number % len(METALS)], size, vacuum=10.0)
    tags = [int(tag == 1) for tag in atoms.get_tags()]
    add_adsorbate(atoms, ADSORBATES[number % len(ADSORBATES)], 1.3, "fcc")
    atoms.set_tags([*tags, 2])
    atoms.rattle(0.05, seed=number)
    return atoms


def potential(model: Model, frames: str) -> NetworkPotential:
    """What a recipe trains, before its first step, with neighbors kept between calls as in a
    relaxation.
    """
    architecture = ARCHITECTURES[model.architecture]
    network = architecture.build(architecture.settings.model_validate(model.settings))
    scales = Scales(energy=1.0, forces=1.0, references=torch.zeros(1, 119))
    energies = (
        EnergyModel(network, scales, model.repulsion_reach, model.reads_tags)
        .eval()
        .requires_grad_(False)
    )
    return NetworkPotential(
        model=energies,
        policy=frame_policy(frames),
        graphs=NeighborCache(network.cutoff, network.max_neighbors),
    )


@click.command()
@click.option("--repeats", default=9, show_default=True)
def main(repeats: int) -> None:
    """Run and print."""
    configure_process()
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread, float32, median of {repeats}"
    )
    for label, (n, size) in BATCHES.items():
        systems: Systems = concatenate([from_atoms(adslab(number, size)) for number in range(n)])
        functions: dict[str, Callable[[], object]] = {}
        edges: dict[str, int] = {}
        for name, frames in MEASURED:
            chosen = potential(read_recipe(MODELS / name / "recipe.yaml").model, frames)
            functions[f"{name}, {frames}"] = partial(chosen, systems)
            edges[f"{name}, {frames}"] = build_graph(systems, chosen.model.network.cutoff).n_edges
        times = interleaved(functions, repeats, time.process_time)
        reference = next(iter(times.values()))
        print(f"{label}, energy and forces:")
        for name, seconds in times.items():
            print(
                f"  {name:<26}{edges[name]:7d} edges {seconds * 1e3:9.1f} ms   {reference / seconds:5.2f} times as fast"
            )


if __name__ == "__main__":
    main()
