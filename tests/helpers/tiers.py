"""Parameters of a test in two tiers: some always, the others where slow tests run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest


def tiered(
    values: Iterable[Any],
    *,
    fast: Collection[Any] | None = None,
    extras: Mapping[Any, str] | None = None,
) -> list[Any]:
    """Values for `pytest.mark.parametrize` with markers.

    Args:
        values: all of them.
        fast: values that need no marker `slow`; None for all.
        extras: package of an optional extra that a value needs.
    """
    found = []
    for value in values:
        marks: list[pytest.MarkDecorator] = []
        if fast is not None and value not in fast:
            marks.append(pytest.mark.slow)
        if extras and value in extras:
            marks.append(pytest.mark.extra(extras[value]))
        found.append(pytest.param(value, marks=marks) if marks else value)
    return found
