"""Whether numbers can be those of a configuration of a binary glass; each check raises `InputError` with one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geocalc.errors import InputError

if TYPE_CHECKING:
    from geocalc.properties.glass.configuration import GlassConfiguration

SPARSEST, DENSEST = 0.5, 2.0  # particles in a volume of sigma_AA^3; glasses have about 1.2
CLOSEST = 0.5  # sigma_AA; at the temperature of a melt no pair of the Kob-Andersen mixture comes nearer than 0.6
WIDEST_GAP = 1.0  # sigma_AA without a particle along an edge of the box, all others projected onto it
Floats = NDArray[np.float64]


def check_shapes(given: GlassConfiguration) -> None:
    """Whether all arrays are of the same particles and times."""
    n, n_times = given.types.size, given.times.size
    wanted = {
        "types": (n,),
        "positions": (n, 3),
        "box": (3,),
        "times": (n_times,),
        "propensity": (n_times, n),
        "half_a": (n_times, n),
        "half_b": (n_times, n),
        "isf": (n_times,),
    }
    for name, shape in wanted.items():
        array = getattr(given, name)
        if array is not None and array.shape != shape:
            raise InputError(f"{name} has shape {array.shape}; expected {shape} for {n} particles and {n_times} times")
    if n == 0:
        raise InputError("there are no particles")


def check_numbers(given: GlassConfiguration) -> None:
    """Whether all numbers are numbers, and those that cannot be negative are not."""
    for name in ("positions", "box", "propensity", "half_a", "half_b", "isf", "temperature", "ageing"):
        values = getattr(given, name)
        if values is not None and not np.isfinite(values).all():
            raise InputError(f"{name} holds {np.count_nonzero(~np.isfinite(values))} values that are not numbers")
    for name in ("propensity", "half_a", "half_b", "times"):
        values = getattr(given, name)
        if values is not None and (values < 0).any():
            raise InputError(f"{name} holds {values.min():g}; distances and times are never negative")
    if given.temperature is not None and given.temperature <= 0:
        raise InputError(f"the temperature is {given.temperature:g}; it must be positive")


def check_types(types: NDArray[np.int64]) -> None:
    """Whether these are two kinds of particles with A in the majority."""
    strange = sorted(set(np.unique(types).tolist()) - {0, 1})
    if strange:
        raise InputError(f"types hold {', '.join(map(str, strange[:5]))}; expected 0 for A and 1 for B alone")
    if 2 * types.sum() > len(types):
        raise InputError(f"{types.sum()} of {len(types)} particles are B, type 1; A, type 0, must be the majority")


def check_box(positions: Floats, box: Floats) -> None:
    """Whether these can be the positions of a dense glass in this box."""
    edges = " x ".join(f"{length:g}" for length in box)
    if not (box > 0).all():
        raise InputError(f"the box {edges} has an edge that is not positive")
    density = len(positions) / box.prod()
    if not SPARSEST <= density <= DENSEST:
        raise InputError(
            f"{len(positions)} particles in the box {edges} have density {density:.3g}; a glass has about 1.2 particles in a volume "
            "of sigma_AA^3, so the box is not theirs or lengths are in other units"
        )
    inside = positions - box * np.floor(positions / box)
    inside = np.where(inside >= box, 0.0, inside)
    for axis, column in zip("xyz", np.sort(inside, axis=0).T, strict=True):
        length = box["xyz".index(axis)]
        gap = np.diff(column, append=column[0] + length).max()
        if gap > WIDEST_GAP and len(column) > 1:
            raise InputError(
                f"the box {edges} is empty over {gap:.3g} of its length along {axis}; it is not that of the positions"
            )
    near = cKDTree(inside, boxsize=box).query_pairs(CLOSEST, output_type="ndarray")
    if len(near):
        i, j = sorted(near[0].tolist())
        raise InputError(
            f"particles {i} and {j}, and {len(near) - 1} other pairs, are nearer than {CLOSEST} in the box {edges}; it is not that "
            "of the positions, or these overlap"
        )
