"""Units in the last place against numpy's own steps between floats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.learning.ulps import max_ulp


@given(st.floats(-(2.0**90), 2.0**90, width=32), st.integers(0, 40), st.sampled_from([np.inf, -np.inf]))
def test_it_counts_numpys_steps(start: float, steps: int, towards: float) -> None:
    at = np.float32(start)
    for _ in range(steps):
        at = np.nextafter(at, np.float32(towards))
    assert max_ulp(np.array([np.float32(start)]), np.array([at])) == steps


@given(st.floats(-1e-300, 1e-300), st.integers(0, 20))
def test_doubles_across_zero_too(start: float, steps: int) -> None:
    at = np.float64(start)
    for _ in range(steps):
        at = np.nextafter(at, np.float64(np.inf))
    assert max_ulp(np.array([start]), np.array([at])) == steps


def test_zeros_are_one_number_and_the_worst_counts() -> None:
    assert max_ulp(np.array([0.0, 1.0]), np.array([-0.0, 1.0])) == 0
    one = np.array([1.0, 2.0], dtype=np.float32)
    assert max_ulp(one, np.nextafter(one, np.float32(9)) * np.float32(1)) == 1
    assert max_ulp(np.zeros(0), np.zeros(0)) == 0
    with pytest.raises(ValueError, match="beside"):
        max_ulp(np.zeros(2), np.zeros(3))
