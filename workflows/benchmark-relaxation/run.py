"""Benchmark the relaxation engine against other codes.

Usage:
    python workflows/benchmark-relaxation/run.py PIECE

PIECE is calls, cells, model, together, overhead, scaling, memory, torch-sim, chgnet or page. Each
piece but the last
writes PIECE.json in this folder; all write the tables of README.md and relaxation.png from the
files that exist.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import against_torch_sim
import calls
import cells
import click
import overhead
import page
import pretrained_peer
import scaling
import shipped_model
import together
import torch

from geocalc.core import available_cores, configure_process

HERE = Path(__file__).parent


@click.group()
def main() -> None:
    """Benchmarks of the relaxation engine."""
    configure_process()


@main.command("calls")
@click.option("--sizes", default="32,128", show_default=True)
@click.option("--seeds", default="0,1", show_default=True)
@click.option("--kinds", default="plain,hard", show_default=True)
def calls_command(sizes: str, seeds: str, kinds: str) -> None:
    """Model calls of our optimizers and ASE's on the EMT sets; each set is written when it is done,
    beside those measured before.
    """
    for kind in kinds.split(","):
        for seed in map(int, seeds.split(",")):
            new = [
                asdict(row)
                for row in calls.measure(kind, seed, [int(size) for size in sizes.split(",")])
            ]
            old = (
                json.loads((HERE / "calls.json").read_text())["rows"]
                if (HERE / "calls.json").exists()
                else []
            )
            kept = [row for row in old if (row["kind"], row["seed"]) != (kind, seed)]
            write("calls", sorted(kept + new, key=lambda row: (row["kind"], row["seed"], row["n"])))


@main.command("model")
@click.option("--n", default=128, show_default=True)
@click.option("--blocks", default=4, show_default=True)
@click.option("--threads", default="default,1", show_default=True, help="Of the loop.")
def model_command(n: int, blocks: int, threads: str) -> None:
    """The shipped model: `geocalc.relax` with two workers against a loop over ASE's BFGS."""
    write(
        "model",
        shipped_model.measure(
            n, blocks=blocks, rounds=min(2, blocks), threads=tuple(threads.split(","))
        ),
        n=n,
    )


@main.command("cells")
def cells_command() -> None:
    """Model calls where cells relax."""
    write("cells", cells.measure())


@main.command("together")
def together_command() -> None:
    """Structures computed together and alone."""
    write("together", together.measure())


@main.command("overhead")
@click.option("--rounds", default=overhead.ROUNDS, show_default=True)
def overhead_command(rounds: int) -> None:
    """Time outside the model for each slab and model call."""
    write("overhead", overhead.measure(rounds))


@main.command("scaling")
@click.option("--most", default=10_000, show_default=True, help="Structures without a model.")
@click.option(
    "--most-model", default=100, show_default=True, help="Structures with the shipped model."
)
def scaling_command(most: int, most_model: int) -> None:
    """Time of each structure, from one to ten thousand."""
    counts = (1, 10, 100, 1000, 10_000)
    without = scaling.without_cost(tuple(n for n in counts if n <= most))
    write("scaling", without + scaling.with_model(tuple(n for n in counts if n <= most_model)))


@main.command("memory")
@click.option("--n", default=10_000, show_default=True)
def memory_command(n: int) -> None:
    """Memory that streaming structures takes."""
    write("memory", scaling.memory(n))


@main.command("torch-sim")
@click.option(
    "--torch-sim-python",
    required=True,
    help="Python of an environment with torch-sim-atomistic 0.3.0.",
)
@click.option("--rounds", default=overhead.ROUNDS, show_default=True)
def torch_sim_command(torch_sim_python: str, rounds: int) -> None:
    """FIRE without constraints, next to torch-sim."""
    write("torch-sim", against_torch_sim.measure(torch_sim_python, rounds=rounds))


@main.command("chgnet")
@click.option(
    "--chgnet-python", required=True, help="Python of an environment with chgnet, vesin and ASE."
)
@click.option("--n", default=8, show_default=True)
def chgnet_command(chgnet_python: str, n: int) -> None:
    """CHGNet in our loop and in ASE's."""
    write("chgnet", pretrained_peer.measure(chgnet_python, n))


@main.command("page")
def page_command() -> None:
    """Tables and plot from what was measured before."""
    page.write(HERE)


def write(piece: str, rows: Sequence[Any], **more: object) -> None:
    """The result beside this file, with the machine it is of, and the page."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": available_cores(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[1], 1),
    }
    plain = [row if isinstance(row, dict) else asdict(row) for row in rows]
    (HERE / f"{piece}.json").write_text(
        json.dumps({"machine": machine, **more, "rows": plain}, indent=1) + "\n"
    )
    page.write(HERE)


if __name__ == "__main__":
    main()
