from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geocalc.train.balance import deal, deal_within

SIZES = st.lists(st.integers(0, 5000), min_size=4, max_size=40)


def sums(sizes: list[int], shares: list[list[int]]) -> list[int]:
    return [sum(sizes[place] for place in share) for share in shares]


@settings(deadline=None, derandomize=True, database=None)
@given(SIZES, st.integers(1, 4))
def test_every_structure_is_dealt_once_and_nobody_goes_without(sizes, n):
    shares = deal(sizes, n)
    assert sorted(place for share in shares for place in share) == list(range(len(sizes)))
    assert all(share and share == sorted(share) for share in shares)
    work = [max(1, size) for size in sizes]  # an empty structure counts as one edge
    # the last one went to the smallest share
    assert max(sums(work, shares)) <= sum(work) / n + max(work) * (1 - 1 / n) + 1e-9


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(1, 100), min_size=4, max_size=6), st.integers(1, 4))
def test_the_largest_share_is_within_a_third_of_the_best_that_there_is(sizes, n):
    ways = itertools.product(range(n), repeat=len(sizes))
    best = min(
        max(
            sum(size for size, share in zip(sizes, way, strict=True) if share == k)
            for k in range(n)
        )
        for way in ways
    )
    assert max(sums(sizes, deal(sizes, n))) <= (4 / 3 - 1 / (3 * n)) * best + 1e-9


def test_equal_sizes_are_dealt_one_after_the_other():
    assert deal([1] * 7, 3) == [[0, 3, 6], [1, 4], [2, 5]]


def test_a_single_share_keeps_the_order():
    assert deal([3, 9, 1], 1) == [[0, 1, 2]]


def test_on_a_mixed_set_the_largest_share_is_hardly_larger_than_the_mean():
    rng = np.random.default_rng(0)
    strided, dealt = [], []
    for _ in range(100):
        sizes = rng.choice([300, 900, 2500, 6000], size=32).tolist()
        mean = sum(sizes) / 4
        strided.append(max(sum(sizes[k::4]) for k in range(4)) / mean)
        dealt.append(max(sums(sizes, deal(sizes, 4))) / mean)
    assert np.mean(strided) > 1.2
    assert np.mean(dealt) < 1.03


@settings(deadline=None, derandomize=True, database=None)
@given(SIZES, st.integers(1, 3), st.integers(1, 20000))
def test_a_limit_makes_more_shares(sizes, n, limit):
    shares = deal_within(sizes, n, limit)
    assert len(shares) >= n
    assert all(
        total <= limit or len(share) == 1
        for total, share in zip(sums(sizes, shares), shares, strict=True)
    )


@pytest.mark.parametrize(("limit", "n"), [(10**6, 2), (30, 2), (29, 3), (1, 6)])
def test_no_more_shares_than_it_takes(limit, n):
    assert len(deal_within([10] * 6, 2, limit)) == n
