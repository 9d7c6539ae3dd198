"""controller.core.interval: intervals that hold what they say."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.blocks import Counts
from controller.core.interval import ratio_interval, share_interval


def test_wilsons_interval_as_published() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I: 81/263, 15/148 and 0/20."""
    assert share_interval(Counts(81, 263)) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(Counts(15, 148)) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert share_interval(Counts(0, 20)) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_nothing_known_is_an_interval_of_everything() -> None:
    assert share_interval(Counts()) == (0.0, 1.0)
    for pair in ((Counts(), Counts(1, 9)), (Counts(1, 9), Counts()), (Counts(0, 9), Counts(0, 9))):
        assert ratio_interval(*pair) == (0.0, math.inf)


def test_zeros_leave_one_end_open() -> None:
    low, high = ratio_interval(Counts(5, 100), Counts(0, 900))
    assert 5 < low < high == math.inf
    low, high = ratio_interval(Counts(0, 100), Counts(50, 900))
    assert 0 == low < high < 1


@given(
    canary=st.tuples(st.integers(1, 99), st.integers(100, 9999)),
    stable=st.tuples(st.integers(1, 99), st.integers(100, 9999)),
)
def test_the_ratio_lies_inside_and_turns_round_with_the_arms(canary: tuple[int, int], stable: tuple[int, int]) -> None:
    a, b = Counts(*canary), Counts(*stable)
    low, high = ratio_interval(a, b)
    assert low < a.ratio / b.ratio < high
    assert ratio_interval(b, a) == pytest.approx((1 / high, 1 / low))


def test_nineteen_of_twenty_intervals_hold_the_ratio() -> None:
    random, held, runs = Random(7), 0, 2000
    for _ in range(runs):
        canary = Counts(sum(random.random() < 0.04 for _ in range(200)), 200)
        stable = Counts(sum(random.random() < 0.01 for _ in range(1000)), 1000)
        low, high = ratio_interval(canary, stable)
        held += low <= 4 <= high
    assert 0.93 <= held / runs <= 0.98
