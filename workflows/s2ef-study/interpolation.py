"""Predict adsorption energies on a metal from those on all other metals, without a network.

A Gaussian process uses the adsorbate, the number of metal atoms that it touches in the relaxed
structure, and the position of the metal in the periodic table and its physical properties; each
metal in turn is predicted from the others. The best of several kernel widths is reported, so the
error is an optimistic one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from geocalc.core import element_properties, groups, periods, symbols
from geocalc.data import Sample, reference_relaxations
from geocalc.train import Recipe

TOUCHING = 1.25  # times the shortest distance from the adsorbate's lowest atom to the metal
# how much each tells metals apart
PROPERTIES, GROUPS, PERIODS = (0.0, 0.3, 0.6), (0.5, 1.0), (0.3, 0.6)
GROUP_STEP = 3.0  # groups that count as much as one period
NARROW, WIDE = 1.0, 3.0  # lengths of the kernel between metals
OTHER_SITE, OTHER_ADSORBATE = 0.85, 0.3  # how alike the trends over metals are
NOISE = 0.01  # eV^2


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Mean absolute errors in eV: over relaxations on every metal in turn, and of each metal by
    symbol.
    """

    mean: float
    metals: dict[str, float]


def limit(recipe: Recipe) -> Limit:
    """What is left of the adsorption energies of the recipe's first source, with the best of the
    widths.
    """
    ends = [r.last for r in reference_relaxations(recipe.data, 0, validation=None)]
    metal = np.array([int(s.numbers[s.tags != 2][0]) for s in ends])
    adsorbate = np.array(
        ["".join(sorted(symbols()[z] for z in s.numbers[s.tags == 2])) for s in ends]
    )
    site, energy = np.array([touched(s) for s in ends]), np.array([s.energy for s in ends])
    same, near = adsorbate[:, None] == adsorbate, np.where(site[:, None] == site, 1.0, OTHER_SITE)
    found = []
    for widths in product(PROPERTIES, GROUPS, PERIODS):
        squared = _squared_distances(metal, *widths)
        alike = 4 * np.exp(-squared / (2 * NARROW**2)) * near + 2 * np.exp(-squared / (2 * WIDE**2))
        kernel = alike * np.where(same, 1.0, OTHER_ADSORBATE) + 4 * same + 1
        found.append(_errors(kernel, metal, energy))
    best = min(found, key=lambda errors: float(np.abs(errors).mean()))
    metals = {symbols()[z]: float(np.abs(best[metal == z]).mean()) for z in np.unique(metal)}
    return Limit(mean=float(np.abs(best).mean()), metals=metals)


def touched(sample: Sample) -> int:
    """Metal atoms, images included, about as near as the nearest to the adsorbate's lowest atom."""
    adsorbed = np.flatnonzero(sample.tags == 2)
    lowest = adsorbed[sample.positions[adsorbed, 2].argmin()]
    apart = (sample.positions[sample.tags != 2] - sample.positions[lowest]) @ np.linalg.inv(
        sample.cell
    )
    apart[:, :2] -= np.round(apart[:, :2])
    images = np.array([(i, j, 0) for i, j in product((-1, 0, 1), repeat=2)])
    distance = np.linalg.norm((apart[:, None] + images) @ sample.cell, axis=2).ravel()
    return int((distance < TOUCHING * distance.min()).sum())


def _squared_distances(
    metal: np.ndarray, properties: float, group: float, period: float
) -> np.ndarray:
    """Between metals, (n, n)."""
    place = np.stack([groups() / GROUP_STEP * group, periods() * period], axis=1)
    where = np.concatenate([element_properties() * properties, place], axis=1)[metal]
    return np.asarray(((where[:, None] - where) ** 2).sum(2))


def _errors(kernel: np.ndarray, metal: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Prediction from the other metals less the energy, (n,) eV."""
    errors = np.empty(len(energy))
    for z in np.unique(metal):
        known, asked = metal != z, metal == z
        mean = energy[known].mean()
        weights = np.linalg.solve(
            kernel[np.ix_(known, known)] + NOISE * np.eye(known.sum()), energy[known] - mean
        )
        errors[asked] = kernel[np.ix_(asked, known)] @ weights + mean - energy[asked]
    return errors
