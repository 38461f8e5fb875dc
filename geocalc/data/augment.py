"""Slabs seen with more layers below than they were computed with.

Energies of adsorption hardly depend on how many layers a slab has, but a network that has only seen
slabs of three layers has never met an atom with two layers on either side, and says anything about
it. Adding layers at random teaches it that they change nothing: the energy and the forces on atoms
that are free to move stay, those on the others are unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geocalc.core.systems import free_atoms
from geocalc.data.settings import Noise
from geocalc.data.store import Sample

MOST = 2  # layers added
FLAT = 0.3  # Angstrom; heights of atoms of one layer differ by less
SAME = 0.1  # Angstrom; places that are the same
NEAR = 0.8  # Angstrom; as far as a relaxed layer may be from its ideal place
VACUUM = 10.0  # Angstrom that remain


def thickened(
    samples: Sequence[Sample], share: float, rngs: Sequence[np.random.Generator]
) -> list[Sample]:
    """Samples, a share of them with one or two layers more; what is no slab with a stacking like
    fcc(111) stays as it is.

    Args:
        samples: labeled frames.
        share: between 0 and 1.
        rngs: randomness of each, so that it does not depend on the others.
    """
    return [
        _thickened(sample, int(rng.integers(1, MOST + 1))) if rng.random() < share else sample
        for sample, rng in zip(samples, rngs, strict=True)
    ]


def _thickened(sample: Sample, n_layers: int) -> Sample:
    step = stacking(sample)
    if step is None:
        return sample
    shift, lowest = step
    below = [sample.positions[lowest] - k * shift for k in range(1, n_layers + 1)]
    normal = _normal(sample)
    heights = sample.positions @ normal
    height = abs(float(sample.cell[2] @ normal)) if sample.pbc[2] else np.inf
    if height - (heights.max() - heights.min()) - n_layers * float(shift @ normal) < VACUUM:
        return sample
    n_new = n_layers * len(lowest)
    unknown = np.full((n_new, 3), np.nan)
    forces = np.where(free_atoms(sample.fixed)[:, None], sample.forces, np.nan)
    return replace(
        sample,
        numbers=np.concatenate([sample.numbers, *[sample.numbers[lowest]] * n_layers]),
        tags=np.concatenate([sample.tags, np.zeros(n_new, dtype=sample.tags.dtype)]),
        positions=np.concatenate([sample.positions, *below]),
        forces=np.concatenate([forces, unknown]),
        relaxed=np.concatenate([sample.relaxed, unknown]),
        fixed=np.concatenate([sample.fixed, np.ones((n_new, 3), dtype=bool)]),
    )


def stacking(sample: Sample) -> tuple[np.ndarray, np.ndarray] | None:
    """The step (3,) from the lowest layer to the next, Angstrom, and the atoms of the lowest; None
    where layers do not follow so.

    The two lowest layers must be fixed, and the third lie where one more step leads.
    """
    held = np.flatnonzero(~free_atoms(sample.fixed))
    if not sample.pbc[:2].all() or len(held) < 2:
        return None
    heights = sample.positions @ _normal(sample)
    lowest = held[heights[held] < heights.min() + FLAT]
    rest = np.setdiff1d(held, lowest)
    if not len(lowest) or not len(rest):
        return None
    second = rest[heights[rest] < heights[rest].min() + FLAT]
    others = np.setdiff1d(np.arange(len(heights)), np.concatenate([lowest, second]))
    if (
        len(second) != len(lowest)
        or not len(others)
        or heights[others].min() < heights[second].max() + FLAT
    ):
        return None
    for shift in sample.positions[second] - sample.positions[lowest[0]]:
        if _lands(sample, lowest, shift, second, SAME) and _lands(
            sample, second, shift, others, NEAR, kinds=False
        ):
            return shift, lowest
    return None


def _lands(
    sample: Sample,
    atoms: np.ndarray,
    shift: np.ndarray,
    targets: np.ndarray,
    tolerance: float,
    kinds: bool = True,
) -> bool:
    """Whether every atom, shifted, lies on one of the targets, up to lattice vectors; with `kinds`
    one of its own element.
    """
    apart = sample.positions[atoms][:, None] + shift - sample.positions[targets][None]
    shares = apart @ np.linalg.inv(sample.cell)
    shares[..., :2] -= np.round(shares[..., :2])
    near = np.linalg.norm(shares @ sample.cell, axis=-1) < tolerance
    if kinds:
        near &= sample.numbers[atoms][:, None] == sample.numbers[targets][None]
    return bool(near.any(1).all())


def _normal(sample: Sample) -> np.ndarray:
    """Unit vector (3,) from the slab's lower to its upper side."""
    normal = np.cross(sample.cell[0], sample.cell[1])
    return normal / np.linalg.norm(normal) * np.sign(normal @ sample.cell[2])


def disturbed(
    samples: Sequence[Sample], noise: Noise, rngs: Sequence[np.random.Generator]
) -> list[Sample]:
    """Samples as they may be seen in one step; targets stay, so displacements are those from where
    the atoms now are.

    Args:
        samples: pairs.
        noise: how far, how often.
        rngs: randomness of each, so that it does not depend on the others.
    Source: Godwin et al., ICLR 2022; with noise before graph and frames, which the published code
    of FAENet has after them.
    """
    return [_disturbed(sample, noise, rng) for sample, rng in zip(samples, rngs, strict=True)]


def _disturbed(sample: Sample, noise: Noise, rng: np.random.Generator) -> Sample:
    if rng.random() >= noise.probability:
        return sample
    share, shape = rng.random() if noise.interpolate else 0.0, sample.positions.shape
    move = share * (sample.relaxed - sample.positions) + noise.sigma * rng.standard_normal(shape)
    return replace(sample, positions=sample.positions + np.where(sample.fixed, 0.0, move))
