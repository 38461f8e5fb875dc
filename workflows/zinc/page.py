"""Write results.json and the table of README.md."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from figures import names, of_recipe
from measure import Fit

BEGIN, END = "<!-- table -->", "<!-- /table -->"
HEAD = (
    "| network | parameters | steps | epochs | folds | R2 | Pearson | MAE | MAE of the mean | seconds per fold |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def write(fits: Sequence[Fit], folder: Path) -> None:
    """results.json, and the table between its marks in README.md."""
    (folder / "results.json").write_text(
        json.dumps([_numbers(fit) for fit in fits], indent=1) + "\n"
    )
    lines = [*HEAD, *(_line(name, of_recipe(fits, name)) for name in names(fits))]
    lines += ["", *(_worst(name, of_recipe(fits, name)) for name in names(fits))]
    lines += [_difference(a, b, fits) for a, b in pairwise(names(fits))]
    text = (folder / "README.md").read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    (folder / "README.md").write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def _numbers(fit: Fit) -> dict[str, str | float]:
    errors = {name: value for name, value in vars(fit.errors).items() if math.isfinite(value)}
    own = ("name", "fold", "weights", "steps", "epochs", "seconds")
    return {name: getattr(fit, name) for name in own} | errors | {"mean_mae": fit.mean_mae}


def _line(name: str, fits: Sequence[Fit]) -> str:
    first = fits[0]
    told = (
        name,
        f"{first.weights:,}",
        f"{first.steps:,}",
        f"{first.epochs:.0f}",
        str(len(fits)),
        with_error([fit.errors.r2 for fit in fits]),
        with_error([fit.errors.pearson for fit in fits]),
        with_error([fit.errors.mae for fit in fits]),
        with_error([fit.mean_mae for fit in fits]),
        f"{sum(fit.seconds for fit in fits) / len(fits):.0f}",
    )
    return f"| {' | '.join(told)} |"


def _worst(name: str, fits: Sequence[Fit]) -> str:
    """A sentence on the largest errors, their sign, and the gain from choosing an epoch."""
    errors = np.concatenate([fit.predicted - fit.known for fit in fits])
    worst = errors[np.argsort(-np.abs(errors))][: max(1, len(errors) // 20)]
    share, high = (worst**2).sum() / (errors**2).sum(), (worst > 0).mean()
    gain = np.mean([max(r2 for _, r2 in fit.curve) - fit.curve[-1][1] for fit in fits])
    return (
        f"- {name}: the 5% of the molecules with the largest errors contribute {share:.0%} of the squared error, and {high:.0%} of them "
        f"are predicted too high. Choosing the best epoch on the fold held out would raise R2 by {gain:.3f}."
    )


def _difference(first: str, second: str, fits: Sequence[Fit]) -> str:
    pairs = [
        (a.errors, b.errors)
        for a in of_recipe(fits, first)
        for b in of_recipe(fits, second)
        if a.fold == b.fold
    ]
    r2, mae = (
        with_error([b.r2 - a.r2 for a, b in pairs]),
        with_error([b.mae - a.mae for a, b in pairs]),
    )
    return f"- {second} minus {first}, on the same folds: R2 {r2}, MAE {mae}."


def with_error(values: Sequence[float]) -> str:
    """The mean of several folds and its standard error."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return f"{mean:.3f}"
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return f"{mean:.3f} ± {spread / math.sqrt(n):.3f}"
