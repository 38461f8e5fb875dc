"""Parameters of a test in two tiers: some always, the others where slow tests run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def tiered(values: Iterable[Any], *, fast: Collection[Any] | None = None) -> list[Any]:
    """Values for `pytest.mark.parametrize` with markers.

    Args:
        values: all of them.
        fast: values that need no marker `slow`; None for all.
    """
    slow = pytest.mark.slow
    return [
        value if fast is None or value in fast else pytest.param(value, marks=slow)
        for value in values
    ]
