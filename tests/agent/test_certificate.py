"""The certificate's judgement of loss against published intervals and the exact binomial distribution."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.certificate import loss_interval
from agent.probe import LossCount


@pytest.mark.parametrize(
    ("lost", "sent", "confidence", "low", "high"),
    [
        (10, 100, 0.95, 0.0490, 0.1762),  # Clopper-Pearson limits as published in tables
        (0, 20, 0.95, 0.0, 0.1684),
        (20, 20, 0.95, 0.8316, 1.0),
        (81, 263, 0.95, 0.2527, 0.3676),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 5
        (15, 148, 0.95, 0.0578, 0.1617),
        (1, 29, 0.95, 0.0009, 0.1776),
    ],
)
def test_the_interval_is_the_published_one(lost: int, sent: int, confidence: float, low: float, high: float) -> None:
    assert loss_interval(LossCount(sent, lost), confidence) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda sent: st.tuples(st.integers(0, sent), st.just(sent))), st.floats(0.5, 0.9999))
def test_the_interval_is_where_both_tails_are_likely_enough(counts: tuple[int, int], confidence: float) -> None:
    lost, sent = counts
    low, high = loss_interval(LossCount(sent, lost), confidence)
    tail = Fraction(1 - confidence) / 2

    def at_least(ratio: float) -> Fraction:
        return sum((_mass(each, sent, ratio) for each in range(lost, sent + 1)), Fraction(0))

    def at_most(ratio: float) -> Fraction:
        return sum((_mass(each, sent, ratio) for each in range(lost + 1)), Fraction(0))

    assert 0 <= low <= lost / sent <= high <= 1
    if lost > 0:
        assert float(at_least(low)) == pytest.approx(float(tail), rel=1e-6)
    if lost < sent:
        assert float(at_most(high)) == pytest.approx(float(tail), rel=1e-6)


def _mass(number: int, sent: int, ratio: float) -> Fraction:
    """The binomial distribution, exactly."""
    exact = Fraction(ratio)
    return math.comb(sent, number) * exact**number * (1 - exact) ** (sent - number)
