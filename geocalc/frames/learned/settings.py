"""Settings of the canonicalizers with weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geocalc.core.settings import Settings


class CanonicalizerSettings(Settings):
    """What all of them have in common.

    Attributes:
        name: of the canonicalizer.
        dimensions: 2 turns about z only, for slabs; 3 turns freely.
        proper: rotations only; without, mirror images have one energy as well.
        reach: Angstrom; edges fade out at this length, or at the network's cutoff where that is
            shorter.
    """

    name: str
    dimensions: Literal[2, 3] = 2
    proper: bool = True
    reach: float = Field(4.0, gt=0)


class VectorNeuronSettings(CanonicalizerSettings):
    """Of `vn-pointnet`, `vn-dgcnn` and `signnet-vn`; a third of `width` channels in the first
    layer, 64 as published.
    """

    width: int = Field(64, ge=3)


class SignNetMLPSettings(CanonicalizerSettings):
    """Of `signnet-mlp`; 32 hidden channels as published."""

    hidden_channels: int = Field(32, ge=1)
