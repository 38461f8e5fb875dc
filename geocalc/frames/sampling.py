"""Random rotations and random members of sets; the source of randomness is always an argument."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geocalc.errors import InputError

# uniform random numbers for each structure: three for a rotation, one for its sign and one for a
# member of a set
N_DRAWS = 5


def uniform_draws(source: torch.Generator | Tensor | None, n: int) -> Tensor | None:
    """Return uniform random numbers between 0 and 1 for `n` structures, (n, N_DRAWS) float64.

    Args:
        source: generator to draw from; given numbers, returned unchanged; or None, returned as
            None.
        n: number of structures.
    """
    if not isinstance(source, torch.Generator):
        return source
    return torch.rand(n, N_DRAWS, generator=source, dtype=torch.float64, device=source.device)


def random_rotations(
    n: int, dimensions: int, proper: bool, generator: torch.Generator | None
) -> Tensor:
    """Return uniformly distributed orthogonal matrices, (n, 3, 3) float64.

    Args:
        n: number of matrices.
        dimensions: as in `rotations_from_draws`.
        proper: as in `rotations_from_draws`.
        generator: source of randomness; its device is that of the result.
    Raises:
        InputError: `generator` is missing.
    """
    return rotations_from_draws(uniform_draws(generator, n), dimensions, proper)


def rotations_from_draws(draws: Tensor | None, dimensions: int, proper: bool) -> Tensor:
    """Return uniformly distributed orthogonal matrices, (n, 3, 3) float64.

    Args:
        draws: (n, N_DRAWS) uniform random numbers.
        dimensions: 2 for rotations about z and mirror images in the plane, 3 for all of SO(3) or
            O(3).
        proper: rotations only; otherwise a random half of the matrices has determinant -1.
    Raises:
        InputError: `draws` is missing.
    Source: Shoemake, Uniform random rotations (1992).
    """
    u = _required(draws)
    n, angles = len(u), 2 * torch.pi * u
    if dimensions == 2:
        zero, one = torch.zeros_like(u[:, 0]), torch.ones_like(u[:, 0])
        cos, sin = angles[:, 0].cos(), angles[:, 0].sin()
        rows = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
    else:
        low, high = (1 - u[:, 0]).sqrt(), u[:, 0].sqrt()
        x, y = low * angles[:, 1].sin(), low * angles[:, 1].cos()
        z, w = high * angles[:, 2].sin(), high * angles[:, 2].cos()
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
    """Draw one of `counts[k]` members uniformly for each k, by the last of the draws.

    Args:
        counts: number of members of each set.
        draws: (n, N_DRAWS) uniform random numbers.
    Raises:
        InputError: `draws` is missing.
    """
    uniform = _required(draws)[:, -1].tolist()
    return [int(u * count) for u, count in zip(uniform, counts, strict=True)]


def _required(draws: Tensor | None) -> Tensor:
    """Return the draws, or raise an error if they are missing."""
    if draws is None:
        raise InputError("random frames need a generator, got None; pass a seeded torch.Generator")
    return draws
