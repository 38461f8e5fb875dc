"""Time FIRE of torch-sim: `torch_sim.optimize` with its defaults, or single FIRE steps.

Runs in an environment with torch-sim 0.3.0 and does not import geocalc.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch_sim as ts
from egg_box import Clock
from side import answer
from torch_sim.models.interface import ModelInterface
from torch_sim.optimizers import fire

MASS = 1.0  # FIRE as in ASE does not read it


class EggBoxModel(ModelInterface):  # type: ignore[misc]
    """The egg box for torch-sim."""

    def __init__(self) -> None:
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_stress, self._compute_forces = False, True
        self.clock = Clock()

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Energy and forces."""
        energy, forces = self.clock.egg_box(state.positions, state.system_idx, state.n_systems)
        return {"energy": energy, "forces": forces}


def state_of(question: dict[str, Any]) -> Any:
    """The batch as torch-sim takes it."""
    counts = [len(numbers) for numbers in question["numbers"]]
    numbers = torch.tensor([z for structure in question["numbers"] for z in structure])
    return ts.SimState(
        positions=torch.tensor(
            [place for structure in question["positions"] for place in structure],
            dtype=torch.float64,
        ),
        masses=torch.full((len(numbers),), MASS, dtype=torch.float64),
        # its cells hold vectors in columns
        cell=torch.tensor(question["cells"], dtype=torch.float64).mT.contiguous(),
        pbc=True,
        atomic_numbers=numbers,
        system_idx=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
    )


def relaxed(question: dict[str, Any]) -> dict[str, float]:
    """Time of `torch_sim.optimize` until every structure has converged, and what its model saw."""
    model, state = EggBoxModel(), state_of(question)
    start = time.thread_time()
    final = ts.optimize(
        state,
        model,
        optimizer=fire,
        convergence_fn=ts.generate_force_convergence_fn(
            force_tol=question["fmax"], include_cell_forces=False
        ),
        max_steps=question["steps"],
    )
    seconds, clock = time.thread_time() - start, model.clock
    worst = float(model(final)["forces"].norm(dim=1).max())
    return {
        "seconds": seconds,
        "model_seconds": clock.seconds,
        "structures": clock.structures,
        "fmax": worst,
    }


def stepped(question: dict[str, Any], steps: int) -> dict[str, float]:
    """Time of its bare steps, without a check for convergence."""
    model = EggBoxModel()
    init, step = fire(model=model)
    state = init(state_of(question))
    model.clock = Clock()
    start = time.thread_time()
    for _ in range(steps):
        state = step(state)
    seconds = time.thread_time() - start
    return {
        "seconds": seconds,
        "model_seconds": model.clock.seconds,
        "structures": model.clock.structures,
    }


def make() -> Callable[[dict[str, Any]], dict[str, float]]:
    """On one thread, as the other side."""
    torch.set_num_threads(1)
    return lambda question: (
        stepped(question, question["bare"]) if "bare" in question else relaxed(question)
    )


if __name__ == "__main__":
    answer(make)
