"""Greedy and static: what they plan can be sent, never before the quickest; tiny cases against all plans."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.flow.chunks import ChunkPlanner
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


@st.composite
def _urgent(draw: st.DrawFn) -> Problem:
    """Some demands with deadlines, most of which can be met."""
    problem = draw(st.one_of(gathered(), spread(), mixed()))
    deadlines_s = st.one_of(st.just(math.inf), st.integers(4, 40).map(float))
    demands = tuple(replace(demand, deadline_s=draw(deadlines_s)) for demand in problem.demands)
    return Problem(problem.windows, demands, problem.start_s)


@pytest.mark.parametrize("scheduler", (*OTHERS, TimeExpanded()), ids=lambda scheduler: scheduler.name)
@settings(max_examples=80)
@given(problem=_urgent())
def test_nothing_is_planned_past_its_deadline(scheduler: FlowScheduler, problem: Problem) -> None:
    """Whatever is planned is in time; what is not is an error that names a demand and says more than that."""
    try:
        check(problem, scheduler.schedule(problem))
    except FlowError as error:
        assert any(error.message.removeprefix("demand ").startswith(f"{d.name} ") for d in problem.demands)
        assert error.found


@pytest.mark.parametrize("scheduler", (*OTHERS, TimeExpanded()), ids=lambda scheduler: scheduler.name)
def test_a_deadline_out_of_reach_is_put_down_to_the_bottleneck(scheduler: FlowScheduler) -> None:
    """Svalbard hears the satellite from 12:03 to 12:11, and again when it is too late."""
    windows = (
        Window("svalbard", "ground", 0, 4000, 1e5),
        Window("sat-0-1", "svalbard", 723, 731, 1e4),
        Window("sat-0-1", "svalbard", 3000, 3100, 1e4),
    )
    demand = Demand("round 1", {"sat-0-1": 0.0}, "ground", 1e5, deadline_s=1200.0)
    with pytest.raises(FlowError, match="^demand round 1 cannot be at ground by its deadline, 20:00 of") as raised:
        scheduler.schedule(Problem(windows, (demand,)))
    expected = "sat-0-1 -> svalbard between 12:03 and 12:11 of mission time: 20 kB of round 1 too much for it"
    assert raised.value.found == expected
    assert scheduler.schedule(Problem(windows, (replace(demand, deadline_s=3100.0),))).completion_s < 3100


def test_a_chunk_that_is_too_late_as_a_whole_is_named() -> None:
    """Two contacts of half a chunk's length beside each other: as a fluid it is through at 5 s, whole at 10."""
    windows = Window("a", "ground", 0, 20, 1), Window("b", "ground", 0, 20, 1)
    chunk = Demand("x", {"a": 0.0, "b": 0.0}, "ground", 10, deadline_s=6.0)
    assert TimeExpanded().schedule(Problem(windows, (chunk,))).completion_s == pytest.approx(5, rel=TOLERANCE)
    with pytest.raises(FlowError, match="^demand x cannot be at ground by its deadline, 0:06 .* sent whole .* 0:10"):
        ChunkPlanner(TimeExpanded()).solve(Problem(windows, (chunk,)))


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
