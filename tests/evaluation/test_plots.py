"""Pictures: what is drawn, what is said of it, and how large the files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geocalc.evaluation.plots import Distribution, Panel, Parity, draw_panels

KB = 1024


def values(n: int, outliers: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """References, and predictions of which some are far away."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=n)
    predicted = reference + 0.05 * rng.normal(size=n)
    predicted[:outliers] += 100.0
    return predicted, reference


def parity(n: int, outliers: int = 0) -> Parity:
    predicted, reference = values(n, outliers)
    return Parity(
        predicted=predicted,
        reference=reference,
        quantity="energy",
        unit="eV",
        threshold=0.02,
        title="m on d",
    )


def drawn(panel: Panel) -> Any:
    from matplotlib.figure import Figure

    figure = Figure()
    axis = figure.add_subplot()
    panel.draw(figure, axis)
    return axis


def format_error(axis: Any) -> str:
    return "\n".join(text.get_text() for text in axis.texts)


def test_a_picture_says_the_errors_and_what_it_does_not_show() -> None:
    panel = parity(200, outliers=3)
    axis, error = drawn(panel), np.abs(panel.predicted - panel.reference)
    for part in (
        f"MAE {error.mean():.3f} eV",
        "RMSE ",
        f"within 0.02 eV: {(error < 0.02).mean():.0%}",
        "n = 200",
        "3 not shown",
    ):
        assert part in format_error(axis)
    assert axis.get_xlabel() == "reference energy (eV)"
    assert axis.get_ylabel() == "predicted energy (eV)"
    assert axis.get_xlim() == axis.get_ylim()
    assert axis.get_aspect() == 1.0
    assert axis.get_xlim()[1] < 10
    assert "not shown" not in format_error(drawn(parity(200)))


def test_many_values_are_a_density_and_none_is_silently_left_out() -> None:
    panel = parity(20_000, outliers=3)
    axis = drawn(panel)
    low, high = axis.get_xlim()
    outside = ~(
        (panel.predicted >= low)
        & (panel.predicted <= high)
        & (panel.reference >= low)
        & (panel.reference <= high)
    )
    assert 3 <= outside.sum() < 400
    assert f"{outside.sum():,} not shown" in format_error(axis)
    assert int(axis.collections[0].get_array().sum()) == 20_000 - outside.sum()


def test_a_distribution_holds_all_but_the_largest_errors() -> None:
    errors = np.append(np.linspace(-0.1, 0.1, 99), 5.0)
    axis = drawn(Distribution(errors=errors, quantity="relaxed energy", unit="eV", threshold=0.02))
    assert "1 not shown" in format_error(axis)
    assert "median +0.0" in format_error(axis)
    assert sum(bar.get_height() for bar in axis.containers[0]) == 99
    assert axis.get_xlabel() == "error of relaxed energy (eV)"


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 80, 4000, 40_000])
def test_files_are_small_whatever_they_show(n: int, tmp_path: Path) -> None:
    predicted, reference = values(n)
    errors = Distribution(
        errors=predicted - reference, quantity="energy", unit="eV", threshold=0.02
    )
    path = draw_panels([parity(n), errors], tmp_path / "new" / "p.png")
    assert 1 * KB < path.stat().st_size < 150 * KB


def test_equal_values_can_be_drawn(tmp_path: Path) -> None:
    same = np.ones(5)
    panel = Parity(predicted=same, reference=same, quantity="energy", unit="eV")
    assert draw_panels(
        [panel, Distribution(errors=same - same, quantity="energy", unit="eV")], tmp_path / "p.png"
    ).exists()


@pytest.mark.slow
def test_four_panels_make_a_square(tmp_path: Path) -> None:
    one, four = (draw_panels([parity(50)] * n, tmp_path / f"{n}.png") for n in (1, 4))
    with Image.open(one) as image:
        small = image.size
    with Image.open(four) as image:
        large = image.size
    assert large == tuple(2 * side for side in small)
    assert four.stat().st_size < 150 * KB
