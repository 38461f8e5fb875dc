"""Compare time and memory of a training step of the graph network with a direct implementation in
torch-geometric.

Usage:
    [GEOCALC_DATA=...] python workflows/glassy-dynamics/speed.py [--repeats 9] [--report]

The graph is a glass of 4096 particles from $GEOCALC_DATA, or random with as many edges. Both
networks have the same weights and run in turn, on one thread. Memory is the peak resident size of a
separate process (on Linux) that does two training steps, minus its size before.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from geocalc.core import configure_process
from geocalc.nn import EdgeIndex
from geocalc.properties import (
    GraphInput,
    GraphNetwork,
    GraphNetworkSettings,
    GraphNetworkStep,
    TwoLayers,
)

FILE = "glassy-kob-andersen-1config/ka_T044_4096.npz"
CUTOFF = 2.0  # of the published graphs, in units of the Lennard-Jones potential
N_NODES, N_EDGES = 4096, 167_000
REPORT = {
    "shared": False,
    "edges_first": False,
    "one_hot": True,
    "decoder_layers": 1,
    "initialization": "torch",
}


class DirectStep(MessagePassing):
    """One step: edges from both ends, then nodes from the sum over their edges, each MLP on one
    concatenation.
    """

    def __init__(self, step: GraphNetworkStep) -> None:
        super().__init__(aggr="add")
        self.edge_mlp, self.node_mlp = direct_mlp(step.edge), direct_mlp(step.node)

    def forward(
        self, v: Tensor, v0: Tensor, e: Tensor, e0: Tensor, edge_index: Tensor, edges_first: bool
    ) -> tuple[Tensor, Tensor]:
        """New nodes and edges."""
        nodes, edges = torch.cat([v, v0], dim=1), torch.cat([e, e0], dim=1)
        updated = self.edge_updater(edge_index, x=nodes, edges=edges)
        sums = self.propagate(edge_index, edges=updated if edges_first else edges)
        return self.node_mlp(torch.cat([nodes, sums], dim=1)), updated

    def edge_update(self, x_i: Tensor, x_j: Tensor, edges: Tensor) -> Tensor:
        """The MLP of the edges; i receives."""
        return self.edge_mlp(torch.cat([edges, x_i, x_j], dim=1))

    def message(self, edges: Tensor) -> Tensor:
        """What is summed."""
        return edges


class Direct(nn.Module):
    """The network as one would write it."""

    def __init__(self, ours: GraphNetwork) -> None:
        super().__init__()
        self.settings = ours.settings
        self.encode_nodes, self.encode_edges = (
            direct_mlp(ours.encode_nodes),
            direct_mlp(ours.encode_edges),
        )
        self.steps = nn.ModuleList(DirectStep(step) for step in ours.steps)
        self.decode = ours.decode

    def forward(self, inputs: GraphInput) -> Tensor:
        """(n_nodes, n_targets)."""
        s, edge_index = self.settings, torch.stack([inputs.index.senders, inputs.index.receivers])
        types = (
            nn.functional.one_hot(inputs.types, s.n_types) if s.one_hot else inputs.types[:, None]
        )
        v = v0 = self.encode_nodes(types.to(inputs.edge_vec.dtype))
        e = e0 = self.encode_edges(inputs.edge_vec)
        for k in range(s.num_layers):
            v, e = self.steps[0 if s.shared else k](v, v0, e, e0, edge_index, s.edges_first)
        return self.decode(v)


def direct_mlp(mlp: TwoLayers) -> nn.Sequential:
    """Two layers with the weights of ours."""
    return nn.Sequential(mlp.first, nn.ReLU(), mlp.last, nn.ReLU())


def graph() -> tuple[GraphInput, str]:
    """What is trained on, and what it is."""
    root = os.environ.get("GEOCALC_DATA")
    generator = torch.Generator().manual_seed(0)
    if root is None:
        receivers = torch.randint(0, N_NODES, (N_EDGES,), generator=generator).sort().values
        senders = torch.randint(0, N_NODES, (N_EDGES,), generator=generator)
        types = (torch.rand(N_NODES, generator=generator) < 0.2).long()
        vectors, label = torch.randn(N_EDGES, 3, generator=generator), "random"
    else:
        stored = np.load(Path(root) / FILE)
        box, types = stored["box"], torch.from_numpy(stored["types"]).long()
        positions = stored["positions"] % box
        tree = cKDTree(positions, boxsize=box)
        pairs = tree.query_pairs(CUTOFF, output_type="ndarray")
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        i, j = np.ascontiguousarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T)
        difference = positions[j] - positions[i]
        vectors = torch.from_numpy(difference - np.round(difference / box) * box).float()
        receivers, senders, label = torch.from_numpy(i), torch.from_numpy(j), "a glass at T = 0.44"
    n = len(types)
    index = EdgeIndex.build(senders, receivers, n)
    return GraphInput(
        types=types, graph_idx=torch.zeros_like(types), n_graphs=1, index=index, edge_vec=vectors
    ), label


def networks(report: bool) -> dict[str, nn.Module]:
    """Both, with the same weights."""
    torch.manual_seed(0)
    ours = GraphNetwork(GraphNetworkSettings.model_validate(REPORT if report else {}))
    return {"direct": Direct(ours), "ours": ours}


def training_step(network: nn.Module, inputs: GraphInput) -> list[Tensor]:
    """Gradients of a mean squared error."""
    network.zero_grad()
    loss = (network(inputs) - inputs.edge_vec.new_ones(())).square().mean()
    loss.backward()
    return [values.grad for values in network.parameters() if values.grad is not None]


def interleaved(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each function, called in turn; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if round_:
                times[name].append(time.process_time() - start)
    return times


def resident_mb(field: str) -> float:
    """Resident size of this process as Linux tells it: `VmRSS` now, `VmHWM` the largest."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def memory_mb(name: str, report: bool) -> float:
    """What a process of its own needs for training steps."""
    command = [sys.executable, __file__, "--memory-of", name, *(["--report"] if report else [])]
    return float(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    )


@click.command()
@click.option("--repeats", default=9, show_default=True)
@click.option(
    "--report",
    is_flag=True,
    help="The variant with seven separate layers in place of the published network.",
)
@click.option("--memory-of", type=click.Choice(["ours", "direct"]), hidden=True)
def main(repeats: int, report: bool, memory_of: str | None) -> None:
    """Run and print."""
    configure_process()
    inputs, label = graph()
    made = networks(report)
    if memory_of is not None:
        before = resident_mb("VmRSS")
        for _ in range(2):
            training_step(made[memory_of], inputs)
        print(resident_mb("VmHWM") - before)
        return
    by_direct, by_ours = (
        [grad.clone() for grad in training_step(made[name], inputs)] for name in ("direct", "ours")
    )
    off = max(float((a - b).norm() / b.norm()) for a, b in zip(by_ours, by_direct, strict=True))
    times = interleaved(
        {name: lambda n=network: training_step(n, inputs) for name, network in made.items()},
        repeats,
    )
    kind = "seven separate layers" if report else "as published"
    print(
        f"machine: {platform.machine()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread"
    )
    print(
        f"{kind}, {len(inputs.types)} nodes, {len(inputs.edge_vec)} edges ({label}), training step, median of {repeats}:"
    )
    direct = float(np.median(times["direct"]))
    for name, values in times.items():
        print(
            f"  {name:<8}{np.median(values):7.2f} s (least {min(values):.2f})   {np.median(values) / direct:.2f} of direct"
        )
    ratios = np.array(times["ours"]) / np.array(times["direct"])
    print(
        f"  ratios of neighboring runs {ratios.min():.2f} to {ratios.max():.2f}; gradients differ by {off:.0e} of their norms at most"
    )
    needs = {name: memory_mb(name, report) for name in made}
    print(
        "  memory: "
        + ", ".join(f"{name} {mb:.0f} MB" for name, mb in needs.items())
        + f", {needs['ours'] / needs['direct']:.2f} of direct"
    )


if __name__ == "__main__":
    main()
