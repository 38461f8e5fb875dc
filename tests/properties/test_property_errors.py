"""Errors of properties on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geocalc.properties.metrics import pearson, property_errors, reliability
from geocalc.properties.task import named


def test_errors_by_hand() -> None:
    known = [np.array([1.0, 2.0, 3.0]), np.array([5.0, 9.0])]
    predicted = [np.array([1.0, 2.0, 4.0]), np.array([8.0, 6.0])]
    errors = property_errors(predicted, known)
    assert errors.n == 5
    assert errors.mae == pytest.approx((0 + 0 + 1 + 3 + 3) / 5)
    assert errors.rmse == pytest.approx(math.sqrt(19 / 5))
    assert errors.r2 == pytest.approx(1 - 19 / 40)  # known: mean 4, squares 9 + 4 + 1 + 1 + 25
    # predicted: mean 4.2; covariances 9.6 + 4.4 + 0.2 + 3.8 + 9, squares 10.24 + 4.84 + 0.04 +
    # 14.44 + 3.24
    assert errors.pearson == pytest.approx(27 / math.sqrt(40 * 32.8))
    assert errors.pearson_each == pytest.approx((3 / math.sqrt(2 * 14 / 3) - 1) / 2)


def test_a_shift_of_each_graph_is_seen_by_the_pooled_correlation_alone() -> None:
    known = [np.array([1.0, 2.0, 4.0]), np.array([11.0, 12.0, 14.0])]
    predicted = [known[0] + 10, known[1] - 10]
    errors = property_errors(predicted, known)
    assert errors.pearson_each == pytest.approx(1.0)
    assert errors.pearson < -0.8


def test_perfect_and_constant_predictions() -> None:
    known = [np.array([1.0, 2.0, 4.0])]
    perfect, constant = property_errors(known, known), property_errors([np.full(3, 7 / 3)], known)
    assert (perfect.mae, perfect.r2, perfect.pearson) == (0.0, 1.0, pytest.approx(1.0))
    assert constant.r2 == pytest.approx(0.0)  # the mean explains nothing
    assert math.isnan(constant.pearson)


def test_correlations_do_not_depend_on_scale_and_origin() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    assert pearson(3 * a - 1, b) == pytest.approx(pearson(a, b), abs=1e-14)
    assert pearson(-a, b) == pytest.approx(-pearson(a, b), abs=1e-14)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-14)


def test_several_targets_have_means_and_correlations_of_their_own() -> None:
    known = [np.array([1.0, 2.0, 4.0])]
    found = named([property_errors(known, known), property_errors([-known[0]], known)])
    assert found["pearson_0"] == pytest.approx(1.0)
    assert found["pearson_1"] == pytest.approx(-1.0)
    assert found["pearson"] == pytest.approx(0.0, abs=1e-12)
    assert found["mae"] == pytest.approx(0.5 * 14 / 3)
    alone = named(
        [property_errors([np.array([1.0]), np.array([2.0])], [np.array([1.0]), np.array([2.5])])]
    )
    assert "pearson_each" not in alone  # graphs of one value correlate with nothing
    assert "pearson_0" not in alone


def test_reliability_is_that_of_the_mean_of_both_halves() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 4.0, 3.0])
    assert pearson(a, b) == pytest.approx(0.6)
    assert reliability(a, b) == pytest.approx(1.2 / 1.6)
    rng = np.random.default_rng(1)
    truth = rng.normal(size=100_000)
    halves = [truth + 0.8 * rng.normal(size=truth.size) for _ in range(2)]
    # share of variance that is not noise
    assert reliability(*halves) == pytest.approx(1 / (1 + 0.8**2 / 2), abs=0.01)
    best = pearson(truth, (halves[0] + halves[1]) / 2)  # what a perfect prediction would come to
    assert best == pytest.approx(math.sqrt(reliability(*halves)), abs=0.01)
