"""The wide potential: parts of its data sets."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
from helpers.workflow_modules import workflow_modules


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    with workflow_modules("wide-potential", ["parents", "wide"]) as found:
        yield found


def test_parts_depend_on_names_alone(modules) -> None:
    part_of = modules["parents"].part_of
    parts = [part_of(f"M{k % 40}(111)", f"s{k}") for k in range(400)]
    assert parts == [part_of(f"M{k % 40}(111)", f"s{k}") for k in range(400)]
    assert set(parts) == {"train", "surface", "structure"}
    by_surface = {k % 40 for k, part in enumerate(parts) if part == "surface"}
    assert all(parts[k] == "surface" for k in range(400) if k % 40 in by_surface)
