"""Greedy and static: what they plan can be sent, never before the quickest; tiny cases against all plans."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.flow.expanded import TOLERANCE, TimeExpanded, certified_bound_s
from controller.flow.greedy import Greedy
from controller.flow.static import Static
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import FlowScheduler, Schedule
from tests.controller.flow.problems import carried_by, check, gathered, mixed, spread

OTHERS = (Greedy(), Static())


def _scheduled(scheduler: FlowScheduler, problem: Problem) -> Schedule | None:
    try:
        return scheduler.schedule(problem)
    except FlowError:
        return None


@pytest.mark.parametrize("scheduler", OTHERS, ids=lambda scheduler: scheduler.name)
@settings(max_examples=80)
@given(problem=st.one_of(gathered(), spread(), mixed()))
def test_what_is_planned_can_be_sent(scheduler: FlowScheduler, problem: Problem) -> None:
    without_storage = Problem(problem.windows, problem.demands, problem.start_s)  # neither looks at storage
    schedule = _scheduled(scheduler, without_storage)
    if schedule is not None:
        check(without_storage, schedule)


@pytest.mark.parametrize("scheduler", OTHERS, ids=lambda scheduler: scheduler.name)
@settings(max_examples=80)
@given(problem=st.one_of(gathered(), spread()))
def test_none_is_through_before_the_quickest(scheduler: FlowScheduler, problem: Problem) -> None:
    without_storage = Problem(problem.windows, problem.demands, problem.start_s)
    schedule = _scheduled(scheduler, without_storage)
    if schedule is None:
        return
    assert schedule.completion_s >= certified_bound_s(without_storage) - 1e-6
    assert TimeExpanded().schedule(without_storage).completion_s <= schedule.completion_s * (1 + TOLERANCE)


@settings(max_examples=60)
@given(problem=st.one_of(gathered(), spread()))
def test_static_never_has_more_through_by_the_end_of_a_slot(problem: Problem) -> None:
    """A maximum flow over all slots looks ahead; one per slot does not."""
    without_storage = Problem(problem.windows, problem.demands, problem.start_s)
    schedule = _scheduled(Static(), without_storage)
    if schedule is None:
        return
    for by_s in sorted({share.hops[-1].end_s for share in schedule.shares if share.hops}):
        sent = sum(share.size_bytes for share in schedule.shares if share.hops and share.hops[-1].end_s <= by_s)
        assert sent <= float(carried_by(without_storage, Fraction(by_s))) + 1e-6


def test_greedy_uses_one_contact_at_a_time() -> None:
    """Both contacts are open for 10 s at 1 B/s; twelve bytes that both satellites hold."""
    windows = (
        Window("a", "ground", 0, 10, 1),
        Window("b", "ground", 0, 12, 1),
        Window("a", "b", 0, 100, 9),
        Window("b", "a", 0, 100, 9),
    )
    problem = Problem(windows, (Demand("all", {"a": 0, "b": 0}, "ground", 12),))
    assert TimeExpanded().schedule(problem).completion_s == pytest.approx(6.0, rel=TOLERANCE)
    shares = Greedy().schedule(problem).shares
    assert [(share.size_bytes, share.hops[0].window, share.not_before_s) for share in shares] == [
        (10, 0, 0.0),
        (2, 1, 10.0),
    ]
