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


class Calibration(Settings):
    """Half width of the interval around an energy: factor times (spread + floor).

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

    def half_widths(self, spread: float | None) -> tuple[float, float]:
        """Compute half the widths of the 68 % and 95 % intervals in eV.

        Args:
            spread: spread of the networks in eV; None or NaN where there is none.
        """
        known = 0.0 if spread is None or math.isnan(spread) else spread
        return self.factor_68 * (known + self.floor), self.factor_95 * (known + self.floor)


def calibrate(errors: np.ndarray, spreads: np.ndarray | None) -> Calibration:
    """Calibrate error bars on known errors.

    Args:
        errors: (n,) eV.
        spreads: (n,) eV, spread of the networks for each; None for a single network.
    Raises:
        InputError: there are too few errors, or they are not finite.
    """
    if len(errors) < FEWEST or not np.isfinite(errors).all():
        raise InputError(
            f"{FEWEST} finite errors are needed for a calibration, got"
            f" {int(np.isfinite(errors).sum())}"
        )
    floor = 1.0 if spreads is None else max(float(np.median(spreads)), 1e-6)
    scores = np.sort(np.abs(errors) / (floor + (0.0 if spreads is None else spreads)))
    factors = [
        float(scores[min(len(scores), math.ceil((len(scores) + 1) * level)) - 1])
        for level in LEVELS
    ]
    return Calibration(n=len(scores), floor=floor, factor_68=factors[0], factor_95=factors[1])


def coverage(
    calibration: Calibration, errors: np.ndarray, spreads: np.ndarray | None
) -> dict[str, Any]:
    """Measure the fraction of errors inside the intervals, and the mean half widths in eV.

    Args:
        calibration: error bars.
        errors: (n,) eV, of structures that were not in the calibration.
        spreads: (n,) eV, or None for a single network.
    """
    rows = [
        calibration.half_widths(None if spreads is None else float(spread))
        for spread in (errors if spreads is None else spreads)
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
