"""Tests that need an optional extra: skipped where its package is missing, unless all must be
there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

import pytest

ALL_EXTRAS = "GEOCALC_TEST_ALL_EXTRAS"  # set where every extra of `test` must be installed


def missing_extra(package: str) -> str | None:
    """Reason to skip a test that needs a package of an optional extra.

    Args:
        package: name under which it is imported, such as `optuna`.
    Returns:
        The reason; None where the package is installed.
    Raises:
        UsageError: it is missing although $GEOCALC_TEST_ALL_EXTRAS says that all extras must be
            there.
    """
    if importlib.util.find_spec(package) is not None:
        return None
    if os.environ.get(ALL_EXTRAS):
        raise pytest.UsageError(
            f"{package} is not installed, but ${ALL_EXTRAS} says that every optional extra must be;"
            " run pip install -e '.[test]'"
        )
    return f"needs the optional extra with {package}: pip install -e '.[test]'"
