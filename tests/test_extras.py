"""Tests of optional extras are skipped without their package, and never where all must be there."""

from __future__ import annotations

import pytest
from helpers.extras import ALL_EXTRAS, missing_extra


def test_a_missing_package_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALL_EXTRAS, raising=False)
    assert missing_extra("pytest") is None
    assert "needs the optional extra with no_such_package" in str(missing_extra("no_such_package"))


def test_a_missing_package_is_an_error_where_all_must_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ALL_EXTRAS, "1")
    with pytest.raises(pytest.UsageError, match="no_such_package is not installed"):
        missing_extra("no_such_package")
