"""Greedy and static: what they plan can be sent, never before the quickest; tiny cases against all plans."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import product

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


def test_holding_beats_one_flow_per_slot() -> None:
    """Two satellites and two slots: the maximum flow of the first slot sends 4 of either's bytes, and what satellite b
    could have sent later is gone before a's turn. 8 of 10 units by the end of the second slot, against all 10."""
    windows = (
        Window("a", "north", 0, 1, 4),
        Window("b", "north", 0, 2, 4),
        Window("north", "ground", 0, 1, 4),
        Window("north", "ground", 1, 2, 6),
    )
    demands = (Demand("of a", {"a": 0}, "ground", 4), Demand("of b", {"b": 0}, "ground", 6))
    problem = Problem(windows, demands)
    assert carried_by(problem, Fraction(2)) == 10
    assert TimeExpanded().schedule(problem).completion_s == pytest.approx(2.0, rel=TOLERANCE)
    with pytest.raises(FlowError, match=r"0\.000 MB of \d transfers are left"):
        Static().schedule(problem)


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


# Every plan of tiny cases: four satellites at most, four slots of a second, whole bytes.


def _tiny(seed: int) -> Problem:
    import random

    draw = random.Random(seed)
    satellites = [f"s{i}" for i in range(draw.randint(2, 4))]
    windows = [
        Window(name, "ground", slot, slot + 1, draw.randint(1, 2))
        for name in satellites
        for slot in range(4)
        if draw.random() < 0.4
    ]
    windows += [Window("s0", "s1", slot, slot + 1, 1) for slot in range(4) if draw.random() < 0.7]
    demands = [Demand(f"of {name}", {name: 0}, "ground", draw.randint(1, 2)) for name in satellites]
    return Problem(tuple(sorted(windows, key=lambda w: (w.start_s, w.sender, w.receiver))), tuple(demands))


def _by_slots(problem: Problem) -> int | None:
    """After how many slots everything can be on the ground, by trying every way to use every slot; None for never."""
    satellites = sorted(name for demand in problem.demands for name in demand.ready_s)
    held = tuple(int(next(d.size_bytes for d in problem.demands if s in d.ready_s)) for s in satellites)

    def uses(slot: int) -> Iterator[tuple[dict[str, int], int]]:
        """How much each satellite may send down, and how much s0 may hand to s1, in a slot."""
        here = [w for w in problem.windows if w.start_s == slot]
        down = {s: sum(int(w.rate_Bps) for w in here if (w.sender, w.receiver) == (s, "ground")) for s in satellites}
        yield down, sum(int(w.rate_Bps) for w in here if w.receiver == "s1")

    @cache
    def least(slot: int, left: tuple[int, ...]) -> int | None:
        if not any(left):
            return slot
        if slot == 4:
            return None
        ((down, across),) = uses(slot)
        found = []
        for handed in range(min(across, left[0]) + 1):
            moved = (left[0] - handed, left[1] + handed, *left[2:])
            for sent in product(*(range(min(moved[i], down[s]) + 1) for i, s in enumerate(satellites))):
                after = least(slot + 1, tuple(m - s for m, s in zip(moved, sent, strict=True)))
                if after is not None:
                    found.append(after)
        return min(found, default=None)

    return least(0, held)


@pytest.mark.parametrize("seed", range(60))
def test_every_plan_of_a_tiny_case_confirms_the_quickest(seed: int) -> None:
    problem = _tiny(seed)
    slots = _by_slots(problem)
    found = _scheduled(TimeExpanded(), problem)
    if slots is None:
        assert found is None  # whole bytes over whole slots: a fluid carries no more (integral flows)
        return
    assert found is not None
    # The fluid is through inside the last slot that the search over whole slots needs, never in an earlier one.
    assert slots - 1 - 1e-6 <= found.completion_s <= slots * (1 + TOLERANCE)
    for other in OTHERS:
        schedule = _scheduled(other, problem)
        assert schedule is None or schedule.completion_s > slots - 1 - 1e-6
