"""Training checkpoints: tensors in safetensors, counters in JSON.

A resumed run equals an uninterrupted run, bitwise on CPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geocalc.core.files import write_atomically
from geocalc.errors import ModelFileError, RunFolderError
from geocalc.train.ema import WeightAverage

COUNTERS = "state.json"


def save_checkpoint(
    folder: Path,
    step: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
) -> None:
    """Write weights, averaged weights, optimizer moments and counters.

    The previous checkpoint is kept until the new one is complete.

    Raises:
        RunFolderError: the disk is full or not writable.
    """
    tensors: dict[str, Tensor] = {f"weights.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.values.items()}
    groups = optimizer.state_dict()
    for number, state in groups["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    counters = {"step": step, "n_updates": average.n_updates, "file": f"state-{step}.safetensors"}
    target = folder / str(counters["file"])
    _save(tensors, target)
    write_atomically(folder / COUNTERS, [json.dumps(counters)])
    for old in [*folder.glob("state-*.safetensors"), *folder.glob("state-*.part")]:
        if old != target:
            old.unlink(missing_ok=True)


def save_best(folder: Path, step: int, network: nn.Module) -> None:
    """Write the averaged weights of an evaluation that no other has beaten; those before stay until
    `forget_others`.

    Raises:
        RunFolderError: the disk is full or cannot be written.
    """
    _save(network.state_dict(), folder / _best(step))


def load_best(folder: Path, step: int, network: nn.Module) -> None:
    """Load the weights of `save_best` into a network.

    Raises:
        ModelFileError: the weights belong to another network, or are damaged.
    """
    weights = _load(folder / _best(step))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(
            f"{folder / _best(step)} is of another network: {' '.join(str(error).split())}"
        ) from None


def forget_others(folder: Path, best: int | None) -> None:
    """Remove the best weights of all steps other than `best`.

    Call this after a checkpoint of that step is written; no resumed run needs the other files then.
    """
    for old in folder.glob(_best("*")):
        if best is None or old.name != _best(best):
            old.unlink(missing_ok=True)


def _best(step: int | str) -> str:
    return f"best-{step}.safetensors"


def _save(tensors: Mapping[str, Tensor], target: Path) -> None:
    """Write a file atomically."""
    part = target.with_suffix(".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part)
        os.replace(part, target)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise RunFolderError(
            f"cannot write the checkpoint {target}: {error}; the one before it is safe"
        ) from None


def load_checkpoint(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage
) -> int:
    """Restore network, optimizer and average in place; return the number of finished steps.

    The number is 0 if there is no checkpoint.

    Raises:
        ModelFileError: the checkpoint belongs to another network, or is damaged.
    """
    if not (folder / COUNTERS).is_file():
        return 0
    counters, tensors = _read(folder)
    try:
        network.load_state_dict(
            {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        )
        for name, value in average.values.items():
            value.copy_(tensors[f"average.{name}"])
    except (RuntimeError, KeyError) as error:
        raise ModelFileError(
            f"the checkpoint in {folder} is of another network: {' '.join(str(error).split())}"
        ) from None
    average.n_updates = counters["n_updates"]
    moments: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(
        {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return int(counters["step"])


def steps_done(folder: Path) -> int:
    """Return the number of steps of the checkpoint in `folder`, 0 if there is none.

    Raises:
        ModelFileError: its counters cannot be read.
    """
    return int(_counters(folder)["step"]) if (folder / COUNTERS).is_file() else 0


def _counters(folder: Path) -> dict[str, Any]:
    try:
        counters = json.loads((folder / COUNTERS).read_text())
        return {
            "step": int(counters["step"]),
            "n_updates": int(counters["n_updates"]),
            "file": str(counters["file"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelFileError(
            f"{folder / COUNTERS} is damaged; start the run again in another folder"
        ) from None


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    counters = _counters(folder)
    return counters, _load(folder / counters["file"])


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(
            f"cannot read the checkpoint {path}: {error}; start the run again in another folder"
        ) from None
