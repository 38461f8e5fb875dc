"""What the progress line says."""

from __future__ import annotations

import pytest

from geocalc.cli.progress import duration, pace


def test_a_run_of_known_length_says_what_is_left() -> None:
    assert pace(30, 100, 28, 20, 10.0) == "30/100, 28 converged, 2.0/s, 35 s left"


def test_without_a_total_or_before_anything_was_computed_nothing_is_estimated() -> None:
    assert pace(3, None, 2, 3, 2.0) == "3 done, 2 converged, 1.5/s"
    assert pace(3, 9, 3, 0, 0.0) == "3/9, 3 converged, 0.0/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (18720, "5 h 12 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
