"""When a run ends before its last step, and which weights it then stands for.

All is told by the log: whatever is dropped from it when a killed run goes on has not happened.
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
    """How the validation error has gone.

    Attributes:
        step: of the evaluation whose weights are kept, None if there is none.
        error: its validation error.
        since: evaluations after it, none of which was better.
    """

    step: int | None
    error: float
    since: int

    def is_beaten_by(self, error: float) -> bool:
        """Whether weights with this validation error are to be kept instead."""
        return self.step is None or math.isnan(self.error) or error < self.error


def best_evaluation(log: Sequence[Mapping[str, Any]]) -> BestEvaluation:
    """The standing after a log; evaluations before the first kept weights do not count."""
    found = BestEvaluation(step=None, error=float("inf"), since=0)
    for entry in log:
        if entry.get("kept"):
            found = BestEvaluation(step=entry["step"], error=entry["error"], since=0)
        elif "kept" in entry and found.step is not None:
            found = BestEvaluation(step=found.step, error=found.error, since=found.since + 1)
    return found


def is_over(log: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether so many evaluations in a row were no better than the one before them; never without
    patience.
    """
    return patience is not None and best_evaluation(log).since >= patience


def final_model(run: Run[Model], folder: Path, patience: int | None) -> Model:
    """The model that a run in `folder` stands for: with patience the best averaged weights, else
    the last.

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
