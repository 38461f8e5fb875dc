"""Early stopping by patience, and the weights that a run results in.

All decisions follow from the log, so that entries dropped when a killed run is resumed have no
effect.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geocalc.train.checkpoint import load_best
from geocalc.train.run import Model, Run
from geocalc.train.run_files import CHECKPOINT, read_log


@dataclass(frozen=True, kw_only=True)
class BestEvaluation:
    """Best evaluation so far.

    Attributes:
        step: step of the evaluation whose weights are saved; None if there is none.
        error: its validation error.
        since: number of evaluations after it.
    """

    step: int | None
    error: float
    since: int

    def is_beaten_by(self, error: float) -> bool:
        """Return whether weights with this validation error should be saved instead."""
        return self.step is None or math.isnan(self.error) or error < self.error


def best_evaluation(log: Sequence[Mapping[str, Any]]) -> BestEvaluation:
    """Find the best evaluation of a log; evaluations before the first saved weights are ignored."""
    found = BestEvaluation(step=None, error=float("inf"), since=0)
    for entry in log:
        if entry.get("kept"):
            found = BestEvaluation(step=entry["step"], error=entry["error"], since=0)
        elif "kept" in entry and found.step is not None:
            found = BestEvaluation(step=found.step, error=found.error, since=found.since + 1)
    return found


def is_over(log: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Return whether the last `patience` evaluations brought no improvement.

    Without patience the result is False.
    """
    return patience is not None and best_evaluation(log).since >= patience


def final_model(run: Run[Model], folder: Path, patience: int | None) -> Model:
    """Return the result of a run: with patience the best averaged weights, else the last.

    Raises:
        ModelFileError: the best weights cannot be read.
    """
    best = None if patience is None else best_evaluation(read_log(folder)).step
    if best is None:
        return run.averaged()
    model = copy.deepcopy(run.model)
    load_best(folder / CHECKPOINT, best, model.network)
    model.eval()
    return model
