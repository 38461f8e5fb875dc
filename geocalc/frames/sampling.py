"""Randomness of frames: uniform rotations and a uniform member of each set; where it comes from is
always an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geocalc.errors import InputError

# uniform numbers for each structure: three for a rotation, one for its sign, one for a member of a
# set
N_DRAWS = 5


def draws_of(source: torch.Generator | Tensor | None, n: int) -> Tensor | None:
    """Uniform numbers between 0 and 1 for `n` structures, (n, N_DRAWS) float64: drawn, or as given;
    None without a source.
    """
    if not isinstance(source, torch.Generator):
        return source
    return torch.rand(n, N_DRAWS, generator=source, dtype=torch.float64, device=source.device)


def random_rotations(
    n: int, dimensions: int, proper: bool, generator: torch.Generator | None
) -> Tensor:
    """Uniformly distributed orthogonal matrices, (n, 3, 3) float64 on the generator's device; see
    `rotations_from`.

    Args:
        n: how many.
        dimensions, proper: see `rotations_from`.
        generator: source of randomness.
    Raises:
        InputError: `generator` is missing.
    """
    return rotations_from(draws_of(generator, n), dimensions, proper)


def rotations_from(draws: Tensor | None, dimensions: int, proper: bool) -> Tensor:
    """Uniformly distributed orthogonal matrices, (n, 3, 3) float64.

    Args:
        draws: (n, N_DRAWS) uniform numbers.
        dimensions: 2 turns about z and mirrors in the plane, 3 draws from all of SO(3) or O(3).
        proper: rotations only; otherwise half of them, at random, have determinant -1.
    Raises:
        InputError: `draws` are missing.
    Source: Shoemake, Uniform random rotations (1992).
    """
    u = _needed(draws)
    n, turns = len(u), 2 * torch.pi * u
    if dimensions == 2:
        zero, one = torch.zeros_like(u[:, 0]), torch.ones_like(u[:, 0])
        cos, sin = turns[:, 0].cos(), turns[:, 0].sin()
        rows = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
    else:
        low, high = (1 - u[:, 0]).sqrt(), u[:, 0].sqrt()
        x, y = low * turns[:, 1].sin(), low * turns[:, 1].cos()
        z, w = high * turns[:, 2].sin(), high * turns[:, 2].cos()
        rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
        rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
        rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    rotations = torch.stack(rows, dim=1).reshape(n, 3, 3)
    if proper:
        return rotations
    sign = torch.where(u[:, 3] < 0.5, -1.0, 1.0).to(torch.float64)
    if dimensions == 2:
        return torch.cat([rotations[:, :1] * sign[:, None, None], rotations[:, 1:]], dim=1)
    return rotations * sign[:, None, None]


def draw_members(counts: Sequence[int], draws: Tensor | None) -> list[int]:
    """One member of each set of `counts[k]` members, uniformly, by the last of the draws (n,
    N_DRAWS).

    Raises:
        InputError: `draws` are missing.
    """
    uniform = _needed(draws)[:, -1].tolist()
    return [int(u * count) for u, count in zip(uniform, counts, strict=True)]


def _needed(draws: Tensor | None) -> Tensor:
    """The draws, or an error where there are none."""
    if draws is None:
        raise InputError("random frames need a generator; pass a torch.Generator with a seed")
    return draws
