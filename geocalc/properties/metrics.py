"""Metrics of property predictions: correlations, errors, and the limit set by noisy targets."""

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
        n: number of values.
        mae: mean absolute error, in the unit of the property.
        rmse: root mean square error, in the unit of the property.
        r2: explained fraction of the variance, 1 - sum (p - t)^2 / sum (t - mean t)^2.
        pearson: Pearson correlation over all values.
        pearson_each: Pearson correlation within each graph, averaged over graphs; NaN if graphs
            have one value.
    """

    n: int
    mae: float
    rmse: float
    r2: float
    pearson: float
    pearson_each: float


def property_errors(predicted: Sequence[Floats], known: Sequence[Floats]) -> PropertyErrors:
    """Compute the errors of a property.

    Args:
        predicted: for each graph, the predictions of its evaluated nodes, or of the graph; at least
            one graph.
        known: reference values in the same order.
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
    """Compute the Pearson correlation; NaN if one of the arrays is constant."""
    a, b = one - one.mean(), other - other.mean()
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 and len(a) > 1 else math.nan


def reliability(half_a: Floats, half_b: Floats) -> float:
    """Compute the noise-free fraction of the variance of a mean over runs.

    The correlation of a prediction with the mean cannot exceed the square root of this fraction.

    Args:
        half_a: mean over one half of the runs.
        half_b: mean over the other half.
    Source: Spearman-Brown, 2 r / (1 + r).
    """
    r = pearson(half_a, half_b)
    return 2 * r / (1 + r)
