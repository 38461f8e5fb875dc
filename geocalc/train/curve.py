"""Plot of the learning curve of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from geocalc.evaluation.plots import ENERGY_MEASURES, PROPERTY_MEASURES, learning_curve
from geocalc.train.run_files import read_log

Errors = Mapping[str, float]


def draw_curve(folder: Path) -> Path | None:
    """Plot `learning-curve.png` from the log of a run.

    Returns:
        The path; None if matplotlib is not installed or the log has no evaluation.
    """
    if find_spec("matplotlib") is None:
        return None
    measured = [entry for entry in read_log(folder) if entry.get("validation")]
    if not measured:
        return None
    sources = measured[-1]["validation"]
    # errors of energies and forces are named so
    of_property = all("mae" in errors for errors in sources.values())
    point = _property_point if of_property else _energy_point
    return learning_curve(
        {
            source: [
                (entry["step"], *point(entry["validation"][source]))
                for entry in measured
                if source in entry["validation"]
            ]
            for source in sources
        },
        folder / "learning-curve.png",
        PROPERTY_MEASURES if of_property else ENERGY_MEASURES,
    )


def _property_point(errors: Errors) -> tuple[float, float]:
    """Return 1 - R2 and the Pearson correlation."""
    return 1 - errors.get("r2", math.nan), errors.get("pearson", math.nan)


def _energy_point(errors: Errors) -> tuple[float, float]:
    """Return the energy MAE in eV and the force or position MAE in eV/Angstrom or Angstrom."""
    return errors.get("energy_mae", math.nan), errors.get(
        "force_mae", errors.get("position_mae", math.nan)
    )
