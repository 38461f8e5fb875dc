"""Settings of every test: one thread, and the marker of tests that need an optional extra.

One thread, because the networks are tiny, and threads that wait for a busy core take ten times as
long.
"""

from __future__ import annotations

import os

# before torch is imported, and for the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from helpers.extras import missing_extra


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a package or the data sets which are not there, and say which."""
    for item in items:
        if "GEOCALC_DATA" not in os.environ and item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="GEOCALC_DATA, the data sets, is not set"))
        for marker in item.iter_markers("extra"):
            for package in marker.args:
                if reason := missing_extra(package):
                    item.add_marker(pytest.mark.skip(reason=reason))
