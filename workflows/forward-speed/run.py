"""Time FAENet against a plain implementation with the same weights, in turn, on one thread.

Usage:
    python workflows/forward-speed/run.py [--repeats 15] [--bf16]

Prints medians and ratios for the S2EF width (256/480/7, direct forces, 65-atom adslabs) and for a
training step of the shipped recipe, and the fraction of the machine's float32 matrix rate that the
forward pass reaches.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from ase.build import add_adsorbate, fcc111, molecule

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from reference.plain_faenet import PlainFAENet

from geocalc import from_atoms
from geocalc.architectures import FAENet, FAENetSettings, NetworkInput
from geocalc.core import configure_process
from geocalc.frames import frame_policy, make_frames
from geocalc.graphs import build_graph, edge_vectors
from geocalc.potentials import replicate

S2EF = {
    "hidden_channels": 256,
    "num_filters": 480,
    "num_interactions": 7,
    "num_gaussians": 136,
    "tag_hidden_channels": 32,
    "pg_hidden_channels": 64,
    "phys_embeds": False,
    "norm": "graph",
    "energy_head": "weighted-av-final-embeds",
    "skip_co": "none",
    "direct_forces": True,
    "max_neighbors": 30,
}
MATRIX = 2048  # rows of the square product that gives the machine's matrix rate


def adslab(metal: str, seed: int) -> NetworkInput:
    """A 65-atom adslab as the network sees it."""
    atoms = fcc111(metal, (4, 5, 3), vacuum=10.0)
    atoms.set_tags([1 if tag == 1 else 0 for tag in atoms.get_tags()])
    add_adsorbate(atoms, molecule("CH3O"), 2.0, "fcc")
    tags = atoms.get_tags()
    tags[60:] = 2
    atoms.set_tags(tags)
    atoms.rattle(0.05, seed=seed)
    systems = from_atoms(atoms)
    graph = build_graph(systems, 6.0, 30)
    vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    frames = make_frames(
        systems.positions, systems.cell, systems, graph, vectors, frame_policy("single")
    )
    return replicate(
        systems, graph, torch.zeros_like(systems.counts), frames, vectors, torch.float32
    )


def interleaved(
    functions: dict[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each function, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 2):
        for name, function in functions.items():
            start = clock()
            function()
            if round_ >= 2:
                times[name].append(clock() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def matrix_operations(settings: FAENetSettings, inputs: NetworkInput) -> float:
    """Floating point operations of the products of one forward pass, as our formulation does them."""
    edges, atoms = inputs.edge_vec.shape[0], inputs.numbers.shape[0]
    lengths = len(torch.unique((inputs.edge_vec * inputs.edge_vec).sum(1)))
    h, f, g = settings.hidden_channels, settings.num_filters, settings.num_gaussians
    per_edge = 3 * (f // 2) + settings.num_interactions * f * (f // 2)
    per_length = g * (f - f // 2) + settings.num_interactions * f * (f - f // 2)
    per_atom = (
        h * h
        + settings.num_interactions * (3 * h * f + f * h + h * h)
        + h * h // 2
        + h * settings.force_decoder_channels
    )
    return 2.0 * (edges * per_edge + lengths * per_length + atoms * per_atom)


def training_step(network: torch.nn.Module, inputs: NetworkInput) -> None:
    """Energy, gradient forces, and the gradient of a loss on both."""
    moved = NetworkInput(**{**vars(inputs), "edge_vec": inputs.edge_vec.clone().requires_grad_()})
    energy = network(moved).energy.sum()
    (force,) = torch.autograd.grad(energy, moved.edge_vec, create_graph=True)
    (energy.abs() + force.norm(dim=1).sum()).backward()


@click.command()
@click.option("--repeats", default=15, show_default=True)
@click.option(
    "--bf16",
    is_flag=True,
    help="Also time bfloat16 edges (pointless on a CPU without bfloat16 instructions).",
)
def main(repeats: int, bf16: bool) -> None:
    """Run and print."""
    configure_process()
    torch.manual_seed(0)
    slabs = [adslab(metal, seed) for seed, metal in enumerate(("Cu", "Pt", "Ag"))]
    settings = FAENetSettings.model_validate(S2EF)
    ours = FAENet(settings).eval()
    plain = PlainFAENet(settings, ours.state_dict()).eval()
    half = FAENet(settings).eval()
    half.load_state_dict(ours.state_dict())
    half.edge_dtype = torch.bfloat16

    def forward(network: torch.nn.Module) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                for slab in slabs:
                    network(slab)

        return run

    square = torch.randn(MATRIX, MATRIX)
    functions = {"plain": forward(plain), "ours": forward(ours), "matrix": lambda: square @ square}
    if bf16:
        functions["bf16 edges"] = forward(half)
    times = interleaved(functions, repeats)
    rate = 2 * MATRIX**3 / times["matrix"]
    share = sum(matrix_operations(settings, slab) for slab in slabs) / times["ours"] / rate
    edges = int(np.mean([slab.edge_vec.shape[0] for slab in slabs]))
    print(
        f"machine: {platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread"
    )
    print(
        f"65-atom adslabs, {edges} edges, 256/480/7, energy and direct forces, median of {repeats}:"
    )
    for name in ("plain", "ours", *(["bf16 edges"] if bf16 else [])):
        print(
            f"  {name:<12} {times[name] / len(slabs) * 1e3:8.1f} ms   {times[name] / times['plain']:.2f} of plain"
        )
    print(f"  matrix rate {rate / 1e9:.0f} GFLOP/s, reached by our forward pass: {share:.0%}")

    small = FAENetSettings(
        hidden_channels=192,
        num_filters=64,
        num_interactions=4,
        num_gaussians=32,
        second_layer_MLP=True,
    )
    for label, chosen in (("S2EF width", settings), ("shipped width", small)):
        network = FAENet(chosen)
        oracle = PlainFAENet(chosen, network.state_dict())
        step = interleaved(
            {
                "plain": lambda n=oracle: training_step(n, slabs[0]),
                "ours": lambda n=network: training_step(n, slabs[0]),
            },
            max(5, repeats // 2),
        )
        print(
            f"training step with gradient forces, {label}: plain {step['plain'] * 1e3:.0f} ms, ours {step['ours'] * 1e3:.0f} ms, "
            f"{step['ours'] / step['plain']:.2f} of plain"
        )


if __name__ == "__main__":
    main()
