"""How well properties are predicted: correlations, errors, and the most that noisy targets allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PropertyErrors:
    """Errors of one property over graphs.

    Attributes:
        n: values.
        mae, rmse: in the unit of the property.
        r2: share of the variance that is explained, 1 - sum (p - t)^2 / sum (t - mean t)^2.
        pearson: of all values together.
        pearson_each: mean over graphs of that within each; NaN where graphs have one value.
    """

    n: int
    mae: float
    rmse: float
    r2: float
    pearson: float
    pearson_each: float


def property_errors(predicted: Sequence[Floats], known: Sequence[Floats]) -> PropertyErrors:
    """Errors of a property.

    Args:
        predicted, known: for each graph, the values of those of its nodes that count, or its own,
            at least one.
    """
    p, t = np.concatenate(list(predicted)), np.concatenate(list(known))
    each = [pearson(a, b) for a, b in zip(predicted, known, strict=True)]
    spread = float(((t - t.mean()) ** 2).sum())
    return PropertyErrors(
        n=len(t),
        mae=float(np.abs(p - t).mean()),
        rmse=math.sqrt(float(((p - t) ** 2).mean())),
        r2=1 - float(((p - t) ** 2).sum()) / spread if spread else math.nan,
        pearson=pearson(p, t),
        pearson_each=float(np.mean(each)),
    )


def pearson(one: Floats, other: Floats) -> float:
    """Pearson's correlation; NaN where either does not vary."""
    a, b = one - one.mean(), other - other.mean()
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 and len(a) > 1 else math.nan


def reliability(half_a: Floats, half_b: Floats) -> float:
    """Share of the variance of a mean over runs that is not noise, from the means over either half
    of the runs.

    No prediction can correlate with the mean by more than its square root.

    Source: Spearman-Brown, 2 r / (1 + r).
    """
    r = pearson(half_a, half_b)
    return 2 * r / (1 + r)
