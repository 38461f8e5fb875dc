"""A small configuration of the Kob-Andersen mixture: a lattice with noise."""

from __future__ import annotations

import numpy as np

from geocalc.properties.glass.configuration import GlassConfiguration


def small_configuration(edge: int = 6, noise: float = 0.03, seed: int = 0) -> GlassConfiguration:
    """A simple cubic lattice (edge^3 particles, density 1.2) with Gaussian noise, every fifth
    particle B, and a made-up motion.
    """
    generator = np.random.default_rng(seed)
    n, spacing = edge**3, (1 / 1.2) ** (1 / 3)
    lattice = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    halves = generator.uniform(0.1, 1.0, (2, 2, n))
    return GlassConfiguration(
        name="small",
        positions=spacing * lattice + generator.normal(scale=noise, size=(n, 3)),
        types=(generator.permutation(n) < n // 5).astype(np.int64),
        box=np.full(3, edge * spacing),
        temperature=0.5,
        times=np.array([0.1, 10.0]),
        propensity=halves.mean(axis=0),
        half_a=halves[0],
        half_b=halves[1],
        n_runs=8,
        isf=np.array([0.9, 0.3]),
        ageing=0.02,
    )
