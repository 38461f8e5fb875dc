"""Devices and floating-point types by name."""

from __future__ import annotations

import torch

from geocalc.errors import InputError

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def choose_device(device: str) -> torch.device:
    """Return the torch device of a name, `auto` meaning a GPU if there is one.

    Raises:
        InputError: the device is unknown or not present.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is unknown; choose auto, cpu or cuda") from None
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(
            f"device {device!r} cannot be used: it lacks float64 or kernels that are needed; choose"
            " auto, cpu or cuda"
        )
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {device!r} was asked for but no CUDA device is available; use cpu or auto"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device!r} was asked for but there are {torch.cuda.device_count()}, numbered"
            " from 0"
        )
    return chosen
