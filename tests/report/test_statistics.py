import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_e_ray.report.statistics import Paired, Rate, departs_from, neighbour_correlation, wilson_interval


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval_as_published(correct, n, low, high):
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_of_nothing_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_bounds_solve_the_score_equation():
    low, high = wilson_interval(7, 10)
    for bound in (low, high):
        assert abs(0.7 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 10), rel=1e-5)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, Statistics in Medicine 17:2635, table II, method 10
        ((20, 12, 2, 16), 0.0562, 0.3292),
    ],
)
def test_paired_interval_as_published(counts, low, high):
    assert Paired(*counts).interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("only_best", "only_baseline", "p"),
    [(5, 0, 2 / 32), (1, 4, 2 * (1 + 5) / 32), (3, 3, 1.0), (0, 0, 1.0), (12, 2, 2 * (1 + 14 + 91) / 2**14)],
)
def test_mcnemar_is_a_coin_thrown_for_each_discordant_pair(only_best, only_baseline, p):
    assert Paired(7, only_best, only_baseline, 9).p_value == pytest.approx(p)


@given(st.tuples(*[st.integers(0, 40)] * 4).filter(any))
def test_paired_interval_holds_the_difference_and_mirrors(counts):
    both, best, base, neither = counts
    pair, mirror = Paired(*counts), Paired(both, base, best, neither)
    low, high = pair.interval
    assert -1 - 1e-9 <= low <= pair.difference <= high <= 1 + 1e-9
    assert mirror.interval == pytest.approx((-high, -low))


def test_rate():
    assert Rate(3, 4).value == 0.75
    assert Rate(3, 4).interval == wilson_interval(3, 4)


@pytest.mark.parametrize(
    ("correct", "n", "sign"),
    [
        (2, 3, 0),  # P(X <= 2) = 1 - 0.95^3 = 0.14
        (1, 3, -1),  # P(X <= 1) = 0.007
        (71, 71, 0),
        (72, 72, 1),  # 0.95^71 = 0.0262, 0.95^72 = 0.0249
        (0, 1, 0),
        (0, 2, -1),  # 0.05, 0.05^2
    ],
)
def test_departure_from_a_share_is_exact(correct, n, sign):
    assert departs_from(Rate(correct, n), 0.95) == sign


def test_neighbour_correlation():
    z = np.array([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]])
    assert neighbour_correlation(z, np.array([0.1, 0.1, 0.9, 0.9])) == pytest.approx(1)
    assert neighbour_correlation(z, np.array([0.1, 0.9, 0.1, 0.9])) == pytest.approx(-1)
    assert neighbour_correlation(z, np.full(4, 0.5)) == 0
