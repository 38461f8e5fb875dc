"""Randomness of frames: uniform rotations and a uniform member of each set; the generator is always an argument."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geocalc.errors import InputError


def random_rotations(n: int, dimensions: int, proper: bool, generator: torch.Generator | None) -> Tensor:
    """Uniformly distributed orthogonal matrices, (n, 3, 3) float64 on the generator's device.

    Args:
        n: how many.
        dimensions: 2 turns about z and mirrors in the plane, 3 draws from all of SO(3) or O(3).
        proper: rotations only; otherwise half of them, at random, have determinant -1.
        generator: source of randomness.
    Raises:
        InputError: `generator` is missing.
    Source: Shoemake, Uniform random rotations (1992).
    """
    draw = _needed(generator)
    device = draw.device
    if dimensions == 2:
        angle = 2 * torch.pi * torch.rand(n, generator=draw, dtype=torch.float64, device=device)
        zero, one = torch.zeros_like(angle), torch.ones_like(angle)
        cos, sin = angle.cos(), angle.sin()
        rows = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
    else:
        quaternion = torch.randn(n, 4, generator=draw, dtype=torch.float64, device=device)
        w, x, y, z = (quaternion / quaternion.norm(dim=1, keepdim=True)).unbind(1)
        rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
        rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
        rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    rotations = torch.stack(rows, dim=1).reshape(n, 3, 3)
    if proper:
        return rotations
    sign = 1.0 - 2.0 * torch.randint(2, (n,), generator=draw, device=device).to(torch.float64)
    if dimensions == 2:
        return torch.cat([rotations[:, :1] * sign[:, None, None], rotations[:, 1:]], dim=1)
    return rotations * sign[:, None, None]


def draw_members(counts: Sequence[int], generator: torch.Generator | None) -> list[int]:
    """One member of each set of `counts[k]` members, uniformly.

    Raises:
        InputError: `generator` is missing.
    """
    draw = _needed(generator)
    uniform = torch.rand(len(counts), generator=draw, dtype=torch.float64, device=draw.device).tolist()
    return [int(u * count) for u, count in zip(uniform, counts, strict=True)]


def _needed(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or an error where there is none."""
    if generator is None:
        raise InputError("random frames need a generator; pass a torch.Generator with a seed")
    return generator
