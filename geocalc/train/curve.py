"""The learning curve of a run as a picture."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

from geocalc.plots import learning_curve
from geocalc.train.run_files import read_log


def draw_curve(folder: Path) -> Path | None:
    """Draw `learning-curve.png` from the log of a run; None where matplotlib is not installed or nothing was measured."""
    if find_spec("matplotlib") is None:
        return None
    measured = [entry for entry in read_log(folder) if entry.get("validation")]
    if not measured:
        return None
    return learning_curve(
        {
            source: [
                (
                    entry["step"],
                    entry["validation"][source].get("energy_mae", math.nan),
                    _vector_mae(entry["validation"][source]),
                )
                for entry in measured
                if source in entry["validation"]
            ]
            for source in measured[-1]["validation"]
        },
        folder / "learning-curve.png",
    )


def _vector_mae(errors: dict[str, float]) -> float:
    """Of forces, or of the positions that relaxed energies come with."""
    return errors.get("force_mae", errors.get("position_mae", math.nan))
