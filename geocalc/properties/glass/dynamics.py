"""Particle dynamics of a glass: propensity, self-intermediate scattering function, relaxation time.

Lengths are in sigma_AA, times in sigma_AA sqrt(m / epsilon_AA), temperatures in epsilon_AA / k_B,
as everywhere in `geocalc.properties.glass`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from geocalc.errors import InputError

A, B = 0, 1
# first peak of the structure factor of A at density 1.2; Kob and Andersen, Phys. Rev. E 52, 4134
# (1995)
WAVE_NUMBER = 7.2
Floats = NDArray[np.float64]


def scattering(
    displacements: Floats, types: NDArray[np.int64], wave_number: float = WAVE_NUMBER
) -> Floats:
    """Compute the self-intermediate scattering function of A, averaged over directions.

    F_s(q, t) = < sin(q r) / (q r) >, with r = |x(t) - x(0)|.

    Args:
        displacements: (..., n, 3), x(t) - x(0), not wrapped, sigma_AA.
        types: (n,), 0 for A.
        wave_number: q, 1 / sigma_AA.
    Returns:
        (...,), 1 without motion.
    """
    distances = np.linalg.norm(displacements[..., types == A, :], axis=-1)
    return np.sinc(wave_number * distances / math.pi).mean(axis=-1)


def relaxation_time(times: Floats, isf: Floats, level: float = 1 / math.e) -> float:
    """Find the relaxation time tau_alpha at which a scattering function falls to `level`.

    The function is interpolated linearly in log t.

    Args:
        times: (n_times,), positive and ascending.
        isf: (n_times,).
        level: value of the function at the relaxation time.
    Returns:
        NaN if the function stays above `level`, or is below it at the first time.
    """
    below = np.flatnonzero(isf <= level)
    if not len(below) or below[0] == 0:
        return math.nan
    k = int(below[0])
    share = (isf[k - 1] - level) / (isf[k - 1] - isf[k])
    return float(times[k - 1] * (times[k] / times[k - 1]) ** share)


@dataclass(frozen=True, kw_only=True)
class Propensity:
    """Mean distances over the runs of an isoconfigurational ensemble.

    Attributes:
        mean: (n_times, n), sigma_AA, over all runs.
        half_a: (n_times, n), sigma_AA, over runs 0, 2, ...; the difference of the halves estimates
            the noise of `mean`.
        half_b: (n_times, n), sigma_AA, over runs 1, 3, ...
        isf: (n_times,), self-intermediate scattering function of A over all runs.
    """

    mean: Floats
    half_a: Floats
    half_b: Floats
    isf: Floats


def propensity(runs: Sequence[Floats], types: NDArray[np.int64]) -> Propensity:
    """Compute the propensity of motion: |x(t) - x(0)| averaged over isoconfigurational runs.

    The runs differ only in their initial velocities.

    Args:
        runs: displacements (n_times, n, 3) of each run, sigma_AA; at least two runs.
        types: (n,), 0 for A.
    Raises:
        InputError: there are fewer than two runs.
    Source: Widmer-Cooper, Harrowell and Fynewever, Phys. Rev. Lett. 93, 135701 (2004).
    """
    if len(runs) < 2:
        raise InputError(
            f"a propensity with its two halves needs two runs or more, got {len(runs)}"
        )
    distances = np.linalg.norm(np.stack(runs), axis=-1)
    isf = np.mean([scattering(run, types) for run in runs], axis=0)
    return Propensity(
        mean=distances.mean(0),
        half_a=distances[::2].mean(0),
        half_b=distances[1::2].mean(0),
        isf=isf,
    )


def maxwell_velocities(n: int, temperature: float, generator: np.random.Generator) -> Floats:
    """Draw velocities (n, 3) of particles of mass 1 from Maxwell's distribution.

    The total momentum is zero.

    The velocities are not rescaled: the kinetic energy fluctuates as in the canonical ensemble.
    """
    velocities = generator.normal(scale=math.sqrt(temperature), size=(n, 3))
    return velocities - velocities.mean(axis=0)


def steps_of(times: Sequence[float], timestep: float) -> tuple[int, ...]:
    """Convert times to numbers of time steps.

    Raises:
        InputError: the times are not positive and ascending, or one is not a multiple of the time
            step.
    """
    steps = tuple(round(time / timestep) for time in times)
    if not times or steps[0] < 1 or any(b <= a for a, b in pairwise(steps)):
        raise InputError(
            f"times must ascend and the first be a step or more, got {list(times)} with steps of"
            f" {timestep}"
        )
    for time, step in zip(times, steps, strict=True):
        if abs(step * timestep - time) > 1e-6 * time:
            raise InputError(
                f"the time {time} is not a multiple of the time step {timestep}; the nearest is"
                f" {step * timestep:g}"
            )
    return steps


def ageing(frames: Floats, types: NDArray[np.int64]) -> float:
    """How far the two halves of a trajectory differ: the largest difference of their scattering
    functions.

    In equilibrium it is noise; in a liquid that ages the later half is slower. Each half is
    averaged over its time origins, for lags up to half of its length.

    Args:
        frames: (n_frames, n, 3), unwrapped positions at even intervals, eight at least.
        types: (n,), 0 for A.
    Raises:
        InputError: there are fewer than eight frames.
    """
    if len(frames) < 8:
        raise InputError(f"a test for ageing needs eight frames or more, got {len(frames)}")
    half = len(frames) // 2
    early, late = (_mean_scattering(part, types) for part in (frames[:half], frames[-half:]))
    return float(np.abs(early - late).max())


def _mean_scattering(frames: Floats, types: NDArray[np.int64]) -> Floats:
    lags = range(1, len(frames) // 2 + 1)
    return np.array([scattering(frames[lag:] - frames[:-lag], types).mean() for lag in lags])
