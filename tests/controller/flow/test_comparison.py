"""Schedulers beside each other on the demo, each replayed in whole chunks."""

from __future__ import annotations

import pytest

from controller.flow.comparison import FlowRow, compare_schedulers
from controller.planner import make_plan
from testbed.scenario import load_scenario


@pytest.fixture(scope="module")
def demo() -> dict[str, FlowRow]:
    return {row.scheduler: row for row in compare_schedulers(make_plan(load_scenario("demo")))}


def test_the_demo_is_hard_enough_to_show_what_a_schedule_is_worth(demo: dict[str, FlowRow]) -> None:
    assert demo["greedy"].replayed_time_s >= 1.2 * demo["time-expanded"].replayed_time_s


def test_on_the_demo_the_default_is_the_best_and_near_the_bound(demo: dict[str, FlowRow]) -> None:
    quickest = demo["time-expanded"]
    assert quickest.replayed_time_s <= demo["static"].replayed_time_s
    # The bound is a fluid's, and knows no delays: 20 transfers of 85 or 13 chunks wait for their last one to be whole
    # on two links more, 0.15 to 0.35 s each.
    assert quickest.lower_bound_s <= quickest.replayed_time_s <= 1.03 * quickest.lower_bound_s
