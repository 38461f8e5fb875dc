"""Relaxed weights: learnable tensors that measure how much a layer breaks its symmetry.

Source: Hofgard, Wang, Walters and Smidt, Relaxed Equivariant Graph Neural Networks, arXiv
2407.20471 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

# length below which the penalty of a group is quadratic, so that its derivative at zero is zero
SMOOTHING = 1e-6


class Irrep(Protocol):
    """Degree and parity of an irreducible representation of O(3), as in the `Irrep` of e3nn."""

    @property
    def l(self) -> int:  # noqa: E743
        """Degree."""
        ...

    @property
    def p(self) -> int:
        """Parity, 1 or -1."""
        ...


@dataclass(frozen=True)
class ThetaBlock:
    """All copies of one irreducible representation of O(3).

    Attributes:
        start: position of their first value in `Theta.values`.
        copies: number of copies.
        degree: l.
        parity: 1 (even) or -1 (odd).
    """

    start: int
    copies: int
    degree: int
    parity: int

    @property
    def name(self) -> str:
        """Name in the notation of e3nn, for example `2e`."""
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"

    @property
    def width(self) -> int:
        """Number of components of a copy."""
        return 2 * self.degree + 1

    @property
    def stop(self) -> int:
        """Position after their last value."""
        return self.start + self.copies * self.width

    @property
    def is_scalar(self) -> bool:
        """Whether the representation is invariant (0e), so that it breaks no symmetry."""
        return self.degree == 0 and self.parity == 1


class Theta(nn.Module):
    """Learnable tensor that is independent of the input.

    Initialized to one for invariant components (0e) and to zero for all others, so a layer is
    equivariant at first. Components are those of e3nn: x, y and z for degree 1, and harmonics with
    polar axis y for higher degrees.

    Args:
        irreps: number of copies and irreducible representation of each block, such as e3nn's
            `Irreps`.
    Attributes:
        values: (dim,) all values.
        blocks: meaning of the values.
    """

    def __init__(self, irreps: Iterable[tuple[int, Irrep]]) -> None:
        super().__init__()
        blocks, start = [], 0
        for copies, irrep in irreps:
            blocks.append(ThetaBlock(start, copies, irrep.l, irrep.p))
            start = blocks[-1].stop
        self.blocks = tuple(blocks)
        self.values = nn.Parameter(torch.zeros(start))
        with torch.no_grad():
            for block in blocks:
                if block.is_scalar:
                    self.values[block.start : block.stop] = 1.0

    def parts(self) -> list[Tensor]:
        """Return the values of each block, (copies, 2l + 1)."""
        return [
            self.values[block.start : block.stop].view(block.copies, block.width)
            for block in self.blocks
        ]

    def penalty(self) -> Tensor:
        """Return the group lasso penalty of all copies except 0e.

        The sum of (2l + 1)^1/2 times the length of each copy.

        It drives whole copies to zero. 0e is excluded because it breaks no symmetry and sets the
        scale of the messages of the layer.
        """
        total = self.values.new_zeros(())
        for block, part in zip(self.blocks, self.parts(), strict=True):
            if not block.is_scalar:
                lengths = (part.square().sum(1) + SMOOTHING**2).sqrt() - SMOOTHING
                total = total + math.sqrt(block.width) * lengths.sum()
        return total


def thetas(module: nn.Module) -> Iterator[tuple[str, Theta]]:
    """Generate the relaxed weights in a module with their names."""
    for name, part in module.named_modules():
        if isinstance(part, Theta):
            yield name, part


def theta_penalty(module: nn.Module) -> Tensor:
    """Sum the penalties of all relaxed weights of a module that has some."""
    return torch.stack([theta.penalty() for _, theta in thetas(module)]).sum()
