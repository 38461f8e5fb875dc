"""The table of README.md, and the numbers behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from figures import names, of_recipe
from measure import Fit

BEGIN, END = "<!-- table -->", "<!-- /table -->"
HEAD = (
    "| network | parameters | steps | epochs | folds | R2 | Pearson | MAE | MAE of the mean | seconds each |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def write(fits: Sequence[Fit], folder: Path) -> None:
    """results.json, and the table between its marks in README.md."""
    (folder / "results.json").write_text(json.dumps([_numbers(fit) for fit in fits], indent=1) + "\n")
    lines = [*HEAD, *(_line(name, of_recipe(fits, name)) for name in names(fits))]
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


def with_error(values: Sequence[float]) -> str:
    """The mean of several folds and its standard error."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return f"{mean:.3f}"
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return f"{mean:.3f} ± {spread / math.sqrt(n):.3f}"
