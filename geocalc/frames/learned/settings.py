"""Settings of canonicalizers with weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geocalc.core.settings import Settings


class CanonicalizerSettings(Settings):
    """Settings common to all canonicalizers with weights.

    Attributes:
        name: name of the canonicalizer.
        dimensions: 2 for rotations about z only, for slabs; 3 for all rotations.
        proper: use rotations only; if False, mirror images have equal energies as well.
        reach: Angstrom, length at which the weight of an edge vanishes; limited by the cutoff of
            the network.
    """

    name: str
    dimensions: Literal[2, 3] = 2
    proper: bool = True
    reach: float = Field(4.0, gt=0)


class VectorNeuronSettings(CanonicalizerSettings):
    """Settings of `vn-pointnet`, `vn-dgcnn` and `signnet-vn`.

    Attributes:
        width: three times the number of channels of the first layer; 64 as published.
    """

    width: int = Field(64, ge=3)


class SignNetMLPSettings(CanonicalizerSettings):
    """Settings of `signnet-mlp`.

    Attributes:
        hidden_channels: width of the hidden layers; 32 as published.
    """

    hidden_channels: int = Field(32, ge=1)
