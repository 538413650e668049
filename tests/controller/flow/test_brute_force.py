"""Schedulers against every plan there is: up to four satellites, four slots of a second, bytes one by one.

A link carries whole bytes in a slot, so no plan that splits bytes has more through by the end of a slot than the best
of those that do not (the integrality of flows; Ford and Fulkerson, 1962), and those can all be tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from itertools import product

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from controller.flow.expanded import TOLERANCE, TimeExpanded
from controller.flow.greedy import Greedy
from controller.flow.static import Static
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import FlowScheduler, Schedule
from tests.controller.flow.problems import carried_by

SLOTS = 4
GROUND = "ground"
ROUNDING_BYTES = 1e-6
LATER_S = 50
"""When a contact opens over which whatever is left gets through: what a scheduler had through before it can be asked
even where the slots are too few for it."""

Links = Mapping[tuple[str, str], int]
"""Of one slot: bytes from one node to another."""


@st.composite
def slotted(draw: st.DrawFn) -> tuple[Problem, tuple[Links, ...]]:
    """Links that change from slot to slot; some bytes on every satellite from some slot on."""
    satellites = [f"s{number}" for number in range(draw(st.integers(2, 4)))]
    down = [(name, GROUND) for name in satellites]
    across = [(one, other) for one in satellites for other in satellites if one != other]
    slots = tuple(
        {
            **draw(st.dictionaries(st.sampled_from(across), st.integers(1, 2), min_size=1, max_size=2)),
            **draw(st.dictionaries(st.sampled_from(down), st.integers(1, 4), max_size=2)),
        }
        for _ in range(SLOTS)
    )
    demands = tuple(
        Demand(f"of {name}", {name: float(draw(st.integers(0, 2)))}, GROUND, draw(st.integers(1, 3)))
        for name in satellites
    )
    return Problem(_windows(slots), demands), slots


def _windows(slots: tuple[Links, ...]) -> tuple[Window, ...]:
    return tuple(
        Window(sender, receiver, slot, slot + 1, size)
        for slot, links in enumerate(slots)
        for (sender, receiver), size in sorted(links.items())
    )


def _with_more_later(problem: Problem) -> Problem:
    holders = sorted({name for demand in problem.demands for name in demand.ready_s})
    later = tuple(Window(name, GROUND, LATER_S, LATER_S + 10, 100) for name in holders)
    return Problem(problem.windows + later, problem.demands)


def most_bytes(problem: Problem, slots: tuple[Links, ...]) -> list[int]:
    """The most that can be on the ground at the end of each slot, by trying everything.

    What a node sends within a slot it had before or got within it (a fluid crosses several links at once).
    """
    satellites = sorted(name for demand in problem.demands for name in demand.ready_s)
    nodes = (*satellites, GROUND)
    fresh = [dict.fromkeys(satellites, 0) for _ in slots]
    for demand in problem.demands:
        ((name, ready_s),) = demand.ready_s.items()
        fresh[int(ready_s)][name] += int(demand.size_bytes)

    def moves(slot: int, held: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        links = sorted(slots[slot].items())
        for sent in product(*(range(size + 1) for _, size in links)):
            after = dict(zip(nodes, held, strict=True))
            for ((sender, receiver), _), size in zip(links, sent, strict=True):
                after[sender] -= size
                after[receiver] += size
            if min(after.values()) >= 0:
                yield tuple(after.values())

    @cache
    def most(slot: int, last: int, held: tuple[int, ...]) -> int:
        if slot > last:
            return held[-1]
        there = tuple(size + fresh[slot].get(name, 0) for name, size in zip(nodes, held, strict=True))
        return max(most(slot + 1, last, after) for after in set(moves(slot, there)))

    return [most(0, last, (0,) * len(nodes)) for last in range(len(slots))]


def through_bytes(schedule: Schedule, by_s: float) -> float:
    """What a schedule has delivered by an instant: evenly over the time of each share's last hop."""

    def part(start_s: float, end_s: float) -> float:
        return min(max((by_s - start_s) / (end_s - start_s), 0.0), 1.0)

    return sum(share.size_bytes * part(share.hops[-1].start_s, share.hops[-1].end_s) for share in schedule.shares)


def completion_s(scheduler: FlowScheduler, problem: Problem) -> float | None:
    try:
        return scheduler.schedule(problem).completion_s
    except FlowError:
        return None


@settings(max_examples=100, deadline=None)
@given(case=slotted())
def test_the_oracle_of_the_other_tests_is_right(case: tuple[Problem, tuple[Links, ...]]) -> None:
    """networkx over time finds exactly what trying everything finds."""
    problem, slots = case
    assert [carried_by(problem, Fraction(slot + 1)) for slot in range(SLOTS)] == most_bytes(problem, slots)


@settings(max_examples=150, deadline=None)
@given(case=slotted())
def test_time_expanded_is_through_as_early_as_anything_can_be(case: tuple[Problem, tuple[Links, ...]]) -> None:
    problem, slots = case
    most = most_bytes(problem, slots)
    total = int(problem.total_bytes)
    found_s = completion_s(TimeExpanded(), problem)
    if most[-1] < total:
        event("cannot be through")
        assert found_s is None
        return
    last = most.index(total)
    event(f"through in slot {last}")
    assert found_s is not None
    assert last < found_s <= (last + 1) * (1 + TOLERANCE)
    assert carried_by(problem, Fraction(found_s * (1 - 2 * TOLERANCE))) < total


@settings(max_examples=150, deadline=None)
@given(case=slotted())
def test_no_other_has_more_through_by_the_end_of_any_slot(case: tuple[Problem, tuple[Links, ...]]) -> None:
    problem, slots = case
    most = most_bytes(problem, slots)
    for scheduler in (Static(), Greedy()):
        schedule = scheduler.schedule(_with_more_later(problem))
        had = [through_bytes(schedule, slot + 1.0) for slot in range(SLOTS)]
        event(f"{scheduler.name}: {'as good' if had[-1] > most[-1] - ROUNDING_BYTES else 'worse'}")
        assert all(bytes_ <= limit + ROUNDING_BYTES for bytes_, limit in zip(had, most, strict=True))
        assert sum(share.size_bytes for share in schedule.shares) == pytest.approx(problem.total_bytes)


@settings(max_examples=100, deadline=None)
@given(case=slotted())
def test_static_has_in_the_first_slot_what_anything_can_have(case: tuple[Problem, tuple[Links, ...]]) -> None:
    """Until then there was nothing to look ahead for."""
    problem, slots = case
    schedule = Static().schedule(_with_more_later(problem))
    assert through_bytes(schedule, 1.0) == pytest.approx(most_bytes(problem, slots)[0], abs=ROUNDING_BYTES)


def test_8_bytes_slot_by_slot_where_10_can_be_through() -> None:
    """Satellite `s0` sees the ground and `s1` in the first slot, `s1` sees the ground in the second. A flow per slot
    brings down 4 of `s0`'s 6 bytes, then the 4 of `s1`; the other 2 of `s0`, which over `s1` could have come in the
    second slot, stay where they are."""
    slots: tuple[Links, ...] = ({("s0", GROUND): 4, ("s0", "s1"): 2}, {("s1", GROUND): 6})
    problem = Problem(_windows(slots), (Demand("x", {"s0": 0}, GROUND, 6), Demand("y", {"s1": 0}, GROUND, 4)))
    assert most_bytes(problem, slots) == [4, 10]
    assert completion_s(TimeExpanded(), problem) == pytest.approx(2, rel=TOLERANCE)
    with pytest.raises(FlowError):
        Static().schedule(problem)
    schedule = Static().schedule(_with_more_later(problem))
    assert [through_bytes(schedule, by_s) for by_s in (1.0, 2.0, 49.0)] == pytest.approx([4, 8, 8])
