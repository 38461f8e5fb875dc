"""Error bars: prediction intervals calibrated on structures that were not in the training data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import Field

from geocalc.core.settings import Settings
from geocalc.errors import InputError

LEVELS = (0.68, 0.95)
FEWEST = 20  # structures; the 95 % quantile of fewer is their largest error
EDGE = 1.0  # novelty at the edge of the domain
# growth of the half widths where fewer than so many structures of a calibration are beyond the edge
FEWEST_BEYOND, FEW_BEYOND = 10, 1.0


class Calibration(Settings):
    """Half width of the interval around an energy: factor times (spread + floor), and wider for
    structures beyond the edge of the domain.

    Split conformal prediction: for structures like those of the calibration, at least 68 % or 95 %
    of the references lie inside. It makes no statement about other structures.

    Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018),
    locally weighted.
    """

    n: int = Field(ge=1, description="number of structures in the calibration")
    floor: float = Field(
        ge=0,
        description="eV, added to the spread of the networks, so that no error bar is zero",
    )
    factor_68: float = Field(ge=0)
    factor_95: float = Field(ge=0)
    growth: float = Field(
        0.0,
        ge=0,
        description=(
            "half widths grow by this times themselves for each unit of novelty beyond 1, the edge"
            " of the domain"
        ),
    )

    def half_widths(
        self, spread: float | None, novelty: float | None = None
    ) -> tuple[float, float]:
        """Compute half the widths of the 68 % and 95 % intervals in eV.

        Args:
            spread: spread of the networks in eV; None or NaN where there is none.
            novelty: of the structure, see `geocalc.potentials.domain`; None or NaN where it is not
                known.
        """
        known = 0.0 if spread is None or math.isnan(spread) else spread
        beyond = 0.0 if novelty is None or math.isnan(novelty) else max(0.0, novelty - EDGE)
        size = (known + self.floor) * (1 + self.growth * beyond)
        return self.factor_68 * size, self.factor_95 * size


def calibrate(
    errors: np.ndarray, spreads: np.ndarray | None, novelties: np.ndarray | None = None
) -> Calibration:
    """Calibrate error bars on known errors.

    Args:
        errors: (n,) eV.
        spreads: (n,) eV, spread of the networks for each; None for a single network.
        novelties: (n,) of the structures; None where they are not known.
    Raises:
        InputError: there are too few errors, or they are not finite.
    """
    if len(errors) < FEWEST or not np.isfinite(errors).all():
        raise InputError(
            f"{FEWEST} finite errors are needed for a calibration, got"
            f" {int(np.isfinite(errors).sum())}"
        )
    floor = 1.0 if spreads is None else max(float(np.median(spreads)), 1e-6)
    scores = np.abs(errors) / (floor + (0.0 if spreads is None else spreads))
    growth = 0.0
    if novelties is not None:
        beyond = np.nan_to_num(np.maximum(0.0, novelties - EDGE))
        growth = _growth(scores, beyond)
        scores = scores / (1 + growth * beyond)
    factor_68, factor_95 = (_quantile(scores, level) for level in LEVELS)
    return Calibration(
        n=len(scores), floor=floor, factor_68=factor_68, factor_95=factor_95, growth=growth
    )


def _growth(scores: np.ndarray, beyond: np.ndarray) -> float:
    """The smallest growth with which intervals hold 95 % of the structures beyond the edge;
    `FEW_BEYOND` where there are few of them.
    """
    outside = beyond > 0
    if outside.sum() < FEWEST_BEYOND or (~outside).sum() < FEWEST:
        return FEW_BEYOND
    within = _quantile(scores[~outside], LEVELS[1])
    return max(0.0, _quantile((scores[outside] / within - 1) / beyond[outside], LEVELS[1]))


def _quantile(values: np.ndarray, level: float) -> float:
    """The value that a share `level` of further values do not exceed."""
    place = min(len(values), math.ceil((len(values) + 1) * level)) - 1
    return float(np.sort(values)[place])


def coverage(
    calibration: Calibration,
    errors: np.ndarray,
    spreads: np.ndarray | None,
    novelties: np.ndarray | None = None,
) -> dict[str, Any]:
    """Measure the fraction of errors inside the intervals, and the mean half widths in eV.

    Args:
        calibration: error bars.
        errors: (n,) eV, of structures that were not in the calibration.
        spreads: (n,) eV, or None for a single network.
        novelties: (n,) of the structures; None where they are not known.
    """
    unknown = np.full(len(errors), np.nan)
    rows = [
        calibration.half_widths(float(spread), float(novelty))
        for spread, novelty in zip(
            unknown if spreads is None else spreads,
            unknown if novelties is None else novelties,
            strict=True,
        )
    ]
    widths = np.array(rows).reshape(-1, 2)
    inside = np.abs(errors)[:, None] <= widths
    return {
        "n": len(errors),
        "inside_68": float(inside[:, 0].mean()),
        "inside_95": float(inside[:, 1].mean()),
        "half_width_68": float(widths[:, 0].mean()),
        "half_width_95": float(widths[:, 1].mean()),
    }
