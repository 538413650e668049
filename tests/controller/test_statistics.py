"""Intervals: quantiles against printed tables and the incomplete beta function, coverage against the definition."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.statistics import estimate, estimate_ratio, t_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "printed"),
    [
        # Abramowitz and Stegun, table 26.10.
        (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776), (0.975, 5, 2.571),
        (0.975, 9, 2.262), (0.975, 10, 2.228), (0.975, 29, 2.045), (0.975, 30, 2.042), (0.975, 120, 1.980),
        (0.95, 4, 2.132), (0.995, 4, 4.604), (0.995, 1, 63.657), (0.999, 2, 22.327), (0.995, 60, 2.660),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_printed_tables(probability: float, freedom: int, printed: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(printed, abs=0.6e-3)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-t_quantile(probability, freedom), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(probability=st.floats(0.5001, 0.9999), freedom=st.integers(1, 200))
def test_quantiles_are_where_the_incomplete_beta_function_says(probability: float, freedom: int) -> None:
    """P(T > t) = I(nu / (nu + t^2); nu / 2, 1 / 2) / 2: another route to the distribution, by mpmath."""
    mpmath: Any = import_module("mpmath")
    t = t_quantile(probability, freedom)
    beyond = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) / 2
    assert float(beyond) == pytest.approx(1 - probability, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.5, 0), (float("nan"), 3)])
def test_there_are_no_other_quantiles(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        t_quantile(probability, freedom)


def test_students_own_example() -> None:
    """Hours of sleep gained (Cushny and Peebles 1905, in Student 1908); the interval is what R's t.test prints."""
    gained = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = estimate(gained)
    assert found is not None and found.n == 10
    assert found.mean == pytest.approx(1.58)
    assert found.deviation == pytest.approx(1.23, abs=0.005)
    assert found.low == pytest.approx(0.7001142, abs=1e-6)
    assert found.high == pytest.approx(2.4598858, abs=1e-6)


def test_ninety_five_of_a_hundred_intervals_hold_the_mean() -> None:
    # 4,000 samples of five: the share has a standard error of 0.0034.
    draws = np.random.default_rng(11).normal(3.0, 2.0, (4_000, 5))
    held = 0
    for values in draws:
        found = estimate(values.tolist())
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= 3.0 <= found.high
    assert held / 4_000 == pytest.approx(0.95, abs=0.0137)  # four standard errors


def test_few_values_have_no_interval() -> None:
    assert estimate([]) is None
    one = estimate([4.0])
    assert one is not None and (one.n, one.mean, one.deviation, one.low, one.high) == (1, 4.0, None, None, None)
    same = estimate([4.0, 4.0, 4.0])
    assert same is not None and (same.low, same.high, same.deviation) == (4.0, 4.0, 0.0)


POSITIVE = st.floats(0.1, 1_000)


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=8), scale=st.floats(0.01, 100))
def test_ratios_are_geometric_and_turn_round(pairs: list[tuple[float, float]], scale: float) -> None:
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    there, back = estimate_ratio(first, second), estimate_ratio(second, first)
    assert there is not None and back is not None
    assert there.mean == pytest.approx(math.prod(b / a for a, b in pairs) ** (1 / len(pairs)), rel=1e-9)
    assert there.low is not None and there.high is not None and back.low is not None and back.high is not None
    assert 0 < there.low <= there.mean * (1 + 1e-12) and there.mean <= there.high * (1 + 1e-12)
    assert (1 / there.mean, 1 / there.high, 1 / there.low) == pytest.approx((back.mean, back.low, back.high), rel=1e-6)
    scaled = estimate_ratio(first, [scale * value for value in second])
    assert scaled is not None and scaled.high is not None
    assert (scaled.mean, scaled.high) == pytest.approx((scale * there.mean, scale * there.high), rel=1e-6)


def test_a_paired_ratio_by_hand() -> None:
    # Logarithms of the ratios 2 and 8: mean ln 4, deviation ln 4 / sqrt 2, half width 12.7062 x ln 4 / 2.
    found = estimate_ratio([1.0, 10.0], [2.0, 80.0])
    assert found is not None
    assert found.mean == pytest.approx(4.0)
    half = 12.706204736 * math.log(4) / 2
    assert found.low == pytest.approx(4 * math.exp(-half))
    assert found.high == pytest.approx(4 * math.exp(half))
