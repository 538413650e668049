"""Means with intervals from a few runs: Student's t, after Student (Biometrika 6, 1908)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import mean, stdev
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """What ``n`` values say of the mean of all such: ``low`` to ``high`` holds it with the stated confidence, if the
    values are independent and normal. One value has neither deviation nor interval."""

    n: int
    mean: float
    deviation: float | None
    """Of the sample (n - 1 in the denominator)."""
    low: float | None
    high: float | None
    confidence: float = CONFIDENCE

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """The mean of ``values`` with its t interval, mean +- t s / sqrt n; None of no values."""
    n = len(values)
    if n < 2:
        return Estimate(1, values[0], None, None, None, confidence) if values else None
    middle, deviation = mean(values), stdev(values)
    half = t_quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
    return Estimate(n, middle, deviation, middle - half, middle + half, confidence)


def estimate_ratio(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """How many times the first the second is, of pairs of positive values, with its interval.

    The mean and the t interval are of ln(second / first), pair by pair, and then taken back by exp: the mean is the
    geometric one, the interval is never below 0, and first against second gives the reciprocals. What differs between
    pairs and not within them (a seed's hold-out, its draws) cancels. ``deviation`` is that of the logarithms.
    """
    logs = [math.log(b / a) for a, b in zip(first, second, strict=True)]
    found = estimate(logs, confidence)
    if found is None:
        return None
    ends = [None if end is None else math.exp(end) for end in (found.low, found.high)]
    return Estimate(found.n, math.exp(found.mean), found.deviation, ends[0], ends[1], confidence)


@lru_cache(maxsize=256)
def t_quantile(probability: float, freedom: int) -> float:
    """Below which a t-distributed value of ``freedom`` >= 1 degrees (whole) lies with ``probability`` in (0, 1).

    Bisection of the distribution's closed form over the angle atan(t / sqrt(freedom)), to the last bits. ValueError
    outside.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"no t quantile of probability {probability} and {freedom} degrees of freedom")
    inside = abs(2 * probability - 1)
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        if _within(middle, freedom) < inside:
            low = middle
        else:
            high = middle
    return math.copysign(math.sqrt(freedom) * math.tan(low), probability - 0.5)


def _within(angle: float, freedom: int) -> float:
    """The probability that |t| < sqrt(freedom) tan(angle): Abramowitz and Stegun 26.7.3 and 26.7.4, finite series."""
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = sine * cosine if odd else sine
    total = 0.0
    for factor in range(2 + odd, freedom + 1 + odd, 2):
        total += term
        term *= cosine * cosine * (factor - 1) / factor
    return 2 / math.pi * (angle + total) if odd else total
