"""Intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.models import write_model
from helpers.structures import adslab, rattled

import geocalc
from geocalc.errors import InputError
from geocalc.potentials.calibration import FEWEST, Calibration, calibrate, coverage
from geocalc.potentials.load import load_model


def drawn(n: int, seed: int, honest: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Errors with a heavy tail, and spreads that know their size as far as `honest` (0 to 1)."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(scale=0.8, size=n)) * 0.05
    spread = size**honest * (0.05 * np.exp(rng.normal(scale=0.5, size=n))) ** (1 - honest)
    return size * rng.standard_t(4, size=n), spread


@pytest.mark.parametrize("honest", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("with_spread", [True, False])
def test_new_structures_are_covered_as_promised(honest: float, with_spread: bool) -> None:
    inside = []
    for seed in range(40):
        errors, spreads = drawn(80, seed, honest)
        made = calibrate(errors, spreads if with_spread else None)
        errors, spreads = drawn(400, 1000 + seed, honest)
        found = coverage(made, errors, spreads if with_spread else None)
        inside.append((found["inside_68"], found["inside_95"]))
    low, high = np.mean(inside, axis=0)
    assert 0.66 < low < 0.72
    assert 0.94 < high < 0.98


def test_an_honest_spread_makes_intervals_shorter_on_average() -> None:
    errors, spreads = drawn(2000, 0)
    test_errors, test_spreads = drawn(2000, 1)
    wide = coverage(calibrate(errors, None), test_errors, None)
    narrow = coverage(calibrate(errors, spreads), test_errors, test_spreads)
    assert narrow["half_width_95"] < 0.9 * wide["half_width_95"]


def test_too_few_errors_or_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=f"{FEWEST} finite errors are needed"):
        calibrate(np.ones(FEWEST - 1), None)
    with pytest.raises(InputError, match="got 29"):
        calibrate(np.array([np.nan, *np.ones(29)]), None)


def test_a_spread_that_is_missing_counts_as_none() -> None:
    made = Calibration(n=50, floor=0.02, factor_68=1.5, factor_95=4.0)
    assert made.half_widths(None) == made.half_widths(float("nan")) == pytest.approx((0.03, 0.08))
    assert made.half_widths(0.02) == pytest.approx((0.06, 0.16))


def test_records_of_relaxed_structures_carry_them(tmp_path) -> None:
    bars = {"n": 79, "floor": 1.0, "factor_68": 0.1, "factor_95": 0.3}
    folder = write_model(tmp_path, card={"calibration": bars})
    assert load_model(folder).card.calibration == Calibration.model_validate(bars)
    atoms = rattled(adslab("O", "fcc"), 0.05)
    relaxed = geocalc.relax(atoms, str(folder), fmax=10.0)[0].record
    assert relaxed.converged
    assert relaxed.energy_error_68 == pytest.approx(0.1 * (1 + relaxed.energy_std))
    assert relaxed.energy_error_95 == pytest.approx(0.3 * (1 + relaxed.energy_std))
    point = geocalc.predict(atoms, str(folder))[0].record
    assert (point.energy_error_68, point.energy_error_95) == (None, None)
    plain = geocalc.relax(atoms, str(write_model(tmp_path, "plain")), fmax=10.0)[0].record
    assert (plain.energy_error_68, plain.energy_error_95) == (None, None)


def beyond_the_edge(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors that grow fivefold from novelty 1 to 2, and novelties, a fourth of them beyond 1."""
    rng = np.random.default_rng(seed)
    novelty = np.where(rng.uniform(size=n) < 0.25, rng.uniform(1, 2, n), rng.uniform(0, 1, n))
    return 0.05 * (1 + 4 * np.maximum(0, novelty - 1)) * rng.standard_t(4, size=n), novelty


def test_intervals_widen_with_novelty_and_cover_both_sides_of_the_edge() -> None:
    within, outside, ignored = [], [], []
    for seed in range(40):
        made = _calibrated(seed)
        plain = calibrate(beyond_the_edge(200, seed)[0], None)
        errors, novelty = beyond_the_edge(1000, 500 + seed)
        for chosen, found in ((novelty <= 1, within), (novelty > 1, outside)):
            some = coverage(made, errors[chosen], None, novelty[chosen])
            found.append(some["inside_95"])
        ignored.append(coverage(plain, errors[novelty > 1], None)["inside_95"])
    assert 0.94 < np.mean(within) < 0.985
    assert 0.93 < np.mean(outside) < 0.99
    assert np.mean(ignored) < 0.9
    assert made.half_widths(None, 1.5)[1] > made.half_widths(None, 1.0)[1]
    assert made.half_widths(None, 0.2) == made.half_widths(None) == made.half_widths(None, 1.0)


def test_with_few_structures_beyond_the_edge_half_widths_double_at_twice_its_novelty() -> None:
    errors, _ = beyond_the_edge(50, 0)
    made = calibrate(errors, None, np.r_[np.full(47, 0.5), 1.1, 1.2, 1.5])
    assert made.half_widths(None, 2.0)[1] == pytest.approx(2 * made.half_widths(None, 1.0)[1])


def _calibrated(seed: int) -> Calibration:
    errors, novelty = beyond_the_edge(200, seed)
    return calibrate(errors, None, novelty)
