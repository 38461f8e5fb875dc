"""Relaxed weights: numbers that turn like a tensor and say how much of its symmetry a layer has
given up.

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

# below this length a group is pulled to zero like a square, so that its derivative at zero is zero
SMOOTH = 1e-6


class Irrep(Protocol):
    """Degree and parity, as e3nn's `Irrep` has them."""

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
    """All copies of one irrep of O(3).

    Attributes:
        start: where they begin in `Theta.values`.
        copies: how many.
        degree: l.
        parity: 1 (even) or -1 (odd).
    """

    start: int
    copies: int
    degree: int
    parity: int

    @property
    def name(self) -> str:
        """As it is written, `2e`."""
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"

    @property
    def width(self) -> int:
        """Components of a copy."""
        return 2 * self.degree + 1

    @property
    def stop(self) -> int:
        """Where they end."""
        return self.start + self.copies * self.width

    @property
    def is_scalar(self) -> bool:
        """Whether nothing turns or reflects it, so that it breaks no symmetry."""
        return self.degree == 0 and self.parity == 1


class Theta(nn.Module):
    """A learnable tensor that no input changes: one where nothing turns it (0e), zero elsewhere, so
    a layer begins equivariant.

    Components are those of e3nn: of degree 1 they are x, y and z, of higher degrees harmonics whose
    polar axis is y.

    Args:
        irreps: copies and irrep of each block, such as e3nn's `Irreps`.
    Attributes:
        values: (dim,).
        blocks: what they are.
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
        """The values of each block, (copies, 2l + 1)."""
        return [
            self.values[block.start : block.stop].view(block.copies, block.width)
            for block in self.blocks
        ]

    def penalty(self) -> Tensor:
        """Group lasso: sum over all copies but those of 0e of their length times (2l + 1)^1/2;
        whole copies tend to zero.

        0e is left alone: it breaks nothing, and its size is that of the layer's messages.
        """
        total = self.values.new_zeros(())
        for block, part in zip(self.blocks, self.parts(), strict=True):
            if not block.is_scalar:
                lengths = (part.square().sum(1) + SMOOTH**2).sqrt() - SMOOTH
                total = total + math.sqrt(block.width) * lengths.sum()
        return total


def thetas(module: nn.Module) -> Iterator[tuple[str, Theta]]:
    """Every relaxed weight inside a module, with the name of its place there."""
    for name, part in module.named_modules():
        if isinstance(part, Theta):
            yield name, part


def theta_penalty(module: nn.Module) -> Tensor:
    """Sum the penalties of all relaxed weights of a module that has some."""
    return torch.stack([theta.penalty() for _, theta in thetas(module)]).sum()
