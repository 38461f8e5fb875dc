"""Training checkpoints: tensors in safetensors, counters in JSON; resuming equals never having stopped (bitwise on CPU)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geocalc.errors import ModelFileError
from geocalc.train.ema import WeightAverage

STATE, COUNTERS = "state.safetensors", "state.json"


def save_checkpoint(
    folder: Path, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage
) -> None:
    """Write weights, average, optimiser moments and counters; the old checkpoint stays until the new one is whole."""
    tensors: dict[str, Tensor] = {f"weights.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.values.items()}
    groups = optimizer.state_dict()
    for number, state in groups["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    counters = {"step": step, "n_updates": average.n_updates, "file": f"state-{step}.safetensors"}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(counters["file"])
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, target.with_suffix(".part"))
    os.replace(target.with_suffix(".part"), target)
    _replace_text(folder / COUNTERS, json.dumps(counters))
    for old in folder.glob("state-*.safetensors"):
        if old != target:
            old.unlink()


def load_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage) -> int:
    """Restore everything in place; returns the number of steps done, 0 if there is no checkpoint.

    Raises:
        ModelFileError: the checkpoint belongs to another network.
    """
    if not (folder / COUNTERS).is_file():
        return 0
    counters = json.loads((folder / COUNTERS).read_text())
    tensors = load_file(folder / counters["file"])
    try:
        network.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    except RuntimeError as error:
        raise ModelFileError(f"the checkpoint in {folder} is of another network: {' '.join(str(error).split())}") from None
    for name in average.values:
        average.values[name].copy_(tensors[f"average.{name}"])
    average.n_updates = counters["n_updates"]
    moments: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(counters["step"])


def _replace_text(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)
