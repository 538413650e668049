"""Range to delay."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.link.budget import ConstantBudget, delay_ms


def test_delay_is_range_over_the_speed_of_light() -> None:
    # By definition light takes 1/299792458 s for a metre; the Moon's mean distance, 384,400 km, is 1.282 s away.
    assert delay_ms(np.array([299.792458, 384_400.0])) == pytest.approx([1.0, 1282.2], rel=1e-4)


def test_a_constant_budget_asks_for_no_range() -> None:
    budget = ConstantBudget(8e6)
    assert {budget.rate_bps(range_km) for range_km in (0.0, 500.0, 3000.0)} == {8e6}
    assert budget.loss_ratio(3000.0) == 0.0
