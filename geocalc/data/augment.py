"""Augmentation of training samples: additional slab layers, and noise on unrelaxed structures.

Adsorption energies hardly depend on the number of layers of a slab, but a network trained on slabs
of three layers has never seen an atom with two layers on either side, and its prediction for it is
arbitrary. Training with layers added at random teaches the network that they have no effect: the
energy and the forces on free atoms are unchanged, those on other atoms unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geocalc.core.systems import free_atoms
from geocalc.data.settings import Noise
from geocalc.data.store import Sample

MAX_LAYERS = 2  # largest number of added layers
LAYER_THICKNESS = 0.3  # Angstrom; largest height difference within a layer
SAME_SITE = 0.1  # Angstrom; largest distance of a fixed atom from its ideal site
NEAR_SITE = 0.8  # Angstrom; largest distance of a relaxed atom from its ideal site
MIN_VACUUM = 10.0  # Angstrom; smallest vacuum after adding layers


def add_layers(
    samples: Sequence[Sample], probability: float, rngs: Sequence[np.random.Generator]
) -> list[Sample]:
    """Add one or two layers below randomly chosen slabs.

    Structures other than slabs with a stacking such as fcc(111) are unchanged.

    Args:
        samples: labeled structures.
        probability: probability of adding layers, between 0 and 1.
        rngs: random generator of each sample, so that results are independent of the other samples.
    """
    return [
        _add_layers(sample, int(rng.integers(1, MAX_LAYERS + 1)))
        if rng.random() < probability
        else sample
        for sample, rng in zip(samples, rngs, strict=True)
    ]


def _add_layers(sample: Sample, n_layers: int) -> Sample:
    """Add `n_layers` layers below a slab, or return the sample unchanged."""
    found = stacking(sample)
    if found is None:
        return sample
    shift, lowest = found
    below = [sample.positions[lowest] - k * shift for k in range(1, n_layers + 1)]
    normal = _normal(sample)
    heights = sample.positions @ normal
    height = abs(float(sample.cell[2] @ normal)) if sample.pbc[2] else np.inf
    if height - (heights.max() - heights.min()) - n_layers * float(shift @ normal) < MIN_VACUUM:
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
    """Find the translation from the lowest layer of a slab to the next.

    The two lowest layers must be fixed, and the third must be near the sites that follow from
    repeating the translation.

    Returns:
        The translation (3,) in Angstrom, and the indices of the atoms of the lowest layer; None if
        the layers do not follow each other by a translation.
    """
    fixed = np.flatnonzero(~free_atoms(sample.fixed))
    if not sample.pbc[:2].all() or len(fixed) < 2:
        return None
    heights = sample.positions @ _normal(sample)
    lowest = fixed[heights[fixed] < heights.min() + LAYER_THICKNESS]
    rest = np.setdiff1d(fixed, lowest)
    if not len(lowest) or not len(rest):
        return None
    second = rest[heights[rest] < heights[rest].min() + LAYER_THICKNESS]
    others = np.setdiff1d(np.arange(len(heights)), np.concatenate([lowest, second]))
    if (
        len(second) != len(lowest)
        or not len(others)
        or heights[others].min() < heights[second].max() + LAYER_THICKNESS
    ):
        return None
    for shift in sample.positions[second] - sample.positions[lowest[0]]:
        if _match_sites(sample, lowest, shift, second, SAME_SITE) and _match_sites(
            sample, second, shift, others, NEAR_SITE, elements=False
        ):
            return shift, lowest
    return None


def _match_sites(
    sample: Sample,
    atoms: np.ndarray,
    shift: np.ndarray,
    targets: np.ndarray,
    tolerance: float,
    elements: bool = True,
) -> bool:
    """Whether every translated atom lies on one of the targets, up to in-plane lattice vectors.

    Args:
        sample: the structure.
        atoms: indices of the atoms to translate.
        shift: (3,) Angstrom, translation.
        targets: indices of the atoms to compare with.
        tolerance: Angstrom, largest distance.
        elements: require equal elements.
    """
    vectors = sample.positions[atoms][:, None] + shift - sample.positions[targets][None]
    fractional = vectors @ np.linalg.inv(sample.cell)
    fractional[..., :2] -= np.round(fractional[..., :2])
    near = np.linalg.norm(fractional @ sample.cell, axis=-1) < tolerance
    if elements:
        near &= sample.numbers[atoms][:, None] == sample.numbers[targets][None]
    return bool(near.any(1).all())


def _normal(sample: Sample) -> np.ndarray:
    """Return the unit normal (3,) from the lower to the upper side of a slab."""
    normal = np.cross(sample.cell[0], sample.cell[1])
    return normal / np.linalg.norm(normal) * np.sign(normal @ sample.cell[2])


def add_noise(
    samples: Sequence[Sample], noise: Noise, rngs: Sequence[np.random.Generator]
) -> list[Sample]:
    """Add noise to the positions of unrelaxed structures.

    Energies and relaxed positions are unchanged, so displacements are those from the new positions.

    Args:
        samples: pairs of unrelaxed and relaxed structures.
        noise: size and probability of the noise.
        rngs: random generator of each sample, so that results are independent of the other samples.
    Source: Godwin et al., ICLR 2022. The noise is added before graph and frames are computed, in
    the published code of FAENet after.
    """
    return [_add_noise(sample, noise, rng) for sample, rng in zip(samples, rngs, strict=True)]


def _add_noise(sample: Sample, noise: Noise, rng: np.random.Generator) -> Sample:
    """Add noise to one sample."""
    if rng.random() >= noise.probability:
        return sample
    fraction, shape = rng.random() if noise.interpolate else 0.0, sample.positions.shape
    displacement = fraction * (
        sample.relaxed - sample.positions
    ) + noise.sigma * rng.standard_normal(shape)
    return replace(sample, positions=sample.positions + np.where(sample.fixed, 0.0, displacement))
