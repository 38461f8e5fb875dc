"""Noisy Nodes: unrelaxed structures moved at random towards their relaxed ones, before graph and frames are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geocalc.data.store import Sample
from geocalc.train.settings import Noise


def disturbed(samples: Sequence[Sample], noise: Noise, rngs: Sequence[np.random.Generator]) -> list[Sample]:
    """Samples as they may be seen in one step; targets stay, so displacements are those from where the atoms now are.

    Args:
        samples: pairs. noise: how far, how often. rngs: randomness of each, so that it does not depend on the others.
    Source: Godwin et al., ICLR 2022; with noise before graph and frames, which the published code of FAENet has after them.
    """
    return [_disturbed(sample, noise, rng) for sample, rng in zip(samples, rngs, strict=True)]


def _disturbed(sample: Sample, noise: Noise, rng: np.random.Generator) -> Sample:
    if rng.random() >= noise.probability:
        return sample
    share, shape = rng.random() if noise.interpolate else 0.0, sample.positions.shape
    move = share * (sample.relaxed - sample.positions) + noise.sigma * rng.standard_normal(shape)
    return replace(sample, positions=sample.positions + np.where(sample.fixed, 0.0, move))
