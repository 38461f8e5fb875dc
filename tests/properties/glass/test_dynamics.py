"""How particles move: laws of the scattering function, the propensity and its noise, and of first
velocities.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from geocalc.errors import InputError
from geocalc.properties.glass.dynamics import (
    ageing,
    maxwell_velocities,
    propensity,
    relaxation_time,
    scattering,
    steps_of,
)

TYPES = np.repeat([0, 1], [800, 200])


def walks(n_frames: int, width: float, seed: int = 0) -> np.ndarray:
    """Random walks (n_frames, 1000, 3) with Gaussian steps."""
    return np.random.default_rng(seed).normal(scale=width, size=(n_frames, 1000, 3)).cumsum(axis=0)


def test_scattering_is_one_where_nothing_moved_and_ignores_b() -> None:
    displacements = np.zeros((2, 1000, 3))
    displacements[1, TYPES == 1] = 5.0
    assert scattering(displacements, TYPES).tolist() == [1.0, 1.0]


def test_scattering_of_gaussian_displacements_is_a_gaussian_in_q() -> None:
    width, q = 0.1, 7.2
    types = np.zeros(200_000, dtype=np.int64)
    displacements = np.random.default_rng(1).normal(scale=width, size=(200_000, 3))
    assert scattering(displacements, types, q) == pytest.approx(
        math.exp(-((q * width) ** 2) / 2), abs=2e-3
    )


def test_scattering_is_the_average_over_directions_of_plane_waves() -> None:
    directions = np.random.default_rng(2).normal(size=(400_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    displacement = np.array([0.21, -0.13, 0.34])
    plane = np.cos(7.2 * directions @ displacement).mean()
    assert scattering(displacement[None], np.zeros(1, dtype=np.int64)) == pytest.approx(
        plane, abs=5e-3
    )


def test_relaxation_time_of_a_power_is_exact_where_its_logarithm_is_straight() -> None:
    times = np.geomspace(1, 100, 12)
    isf = 1 - 0.4 * np.log10(times)
    assert relaxation_time(times, isf) == pytest.approx(10 ** ((1 - 1 / math.e) / 0.4))


@pytest.mark.parametrize("isf", [[0.9, 0.8, 0.7], [0.3, 0.2, 0.1]])
def test_relaxation_time_is_unknown_outside_the_times(isf: list[float]) -> None:
    assert math.isnan(relaxation_time(np.array([1.0, 2.0, 3.0]), np.array(isf)))


def test_propensity_is_the_mean_distance_and_the_mean_of_its_halves() -> None:
    runs = [walks(3, 0.2, seed) for seed in range(6)]
    found = propensity(runs, TYPES)
    by_hand = np.mean([[math.dist(runs[k][2, 17], (0, 0, 0)) for k in range(6)]])
    assert found.mean[2, 17] == pytest.approx(by_hand, rel=1e-14)
    np.testing.assert_allclose((found.half_a + found.half_b) / 2, found.mean, rtol=1e-12)
    np.testing.assert_array_equal(found.half_b, propensity(runs[1::2], TYPES).mean)
    assert np.all(np.diff(found.isf) < 0)


def test_propensity_refuses_a_single_run() -> None:
    with pytest.raises(InputError, match="two runs or more, got 1"):
        propensity([walks(3, 0.2)], TYPES)


def test_first_velocities_have_no_momentum_and_the_temperature() -> None:
    velocities = maxwell_velocities(20_000, 0.64, np.random.default_rng(3))
    np.testing.assert_allclose(velocities.sum(axis=0), 0, atol=1e-9)
    assert (velocities**2).mean() == pytest.approx(0.64, rel=0.02)
    kurtosis = (velocities**4).mean() / (velocities**2).mean() ** 2
    assert kurtosis == pytest.approx(3.0, rel=0.03)  # of a Gaussian


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ((), "ascend"),
        ((1.0, 1.0), "ascend"),
        ((0.001,), "ascend"),
        ((0.1, 0.2037), "not a multiple"),
    ],
)
def test_times_that_no_step_meets_are_refused(times: tuple[float, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        steps_of(times, 0.005)


def test_steady_motion_does_not_age_and_slowing_motion_does() -> None:
    steady = walks(40, 0.05)
    slowing = np.concatenate([steady[:20], steady[19] + 0.3 * (steady[20:] - steady[19])])
    assert ageing(steady, TYPES) < 0.05
    assert ageing(slowing, TYPES) > 0.15
    with pytest.raises(InputError, match="eight frames"):
        ageing(steady[:7], TYPES)
