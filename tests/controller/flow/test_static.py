"""One maximum flow per slot: each slot against networkx, and that it does not look ahead."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from controller.flow.static import Static
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from tests.controller.flow.problems import gathered, mixed, spread

ROUNDING = 1e-6
"""Share of all bytes that whole bytes, and the search for the end of the last slot, may cost."""
SIZE = 10**6
"""Bytes and rates are drawn as small numbers and meant in MB: schedules are of whole bytes."""


def _scaled(problem: Problem) -> Problem:
    """In MB, without storage limits (bytes do not wait on their way), and with room for all at the end."""
    windows = [Window(w.sender, w.receiver, w.start_s, w.end_s, w.rate_Bps * SIZE) for w in problem.windows]
    ways = sorted({(node, d.destination) for d in problem.demands for node in d.ready_s})
    windows += [Window(*way, 60, 200, SIZE) for way in ways]
    demands = [Demand(d.name, d.ready_s, d.destination, d.size_bytes * SIZE, d.weight) for d in problem.demands]
    return Problem(tuple(windows), tuple(demands))


def _maximum_bytes(problem: Problem, left_bytes: Mapping[str, float], start_s: float, end_s: float) -> float:
    """What networkx gets through between two instants, of demands that go to one node or are of one."""
    graph = nx.DiGraph()
    graph.add_nodes_from(("source", "sink"))
    for window in problem.windows:
        if window.start_s <= start_s and end_s <= window.end_s:
            ends = ("node", window.sender), ("node", window.receiver)
            more = graph.edges[ends]["capacity"] if graph.has_edge(*ends) else 0
            graph.add_edge(*ends, capacity=more + Fraction(window.rate_Bps) * (Fraction(end_s) - Fraction(start_s)))
    wanted: dict[str, Fraction] = {}
    for demand in problem.demands:
        holders = [node for node, at_s in demand.ready_s.items() if at_s <= start_s]
        if holders and demand.name in left_bytes:
            size = Fraction(left_bytes[demand.name])
            graph.add_edge("source", ("of", demand.name), capacity=size)
            graph.add_edges_from((("of", demand.name), ("node", node)) for node in holders)
            wanted[demand.destination] = wanted.get(demand.destination, Fraction(0)) + size
    for node, size in wanted.items():
        graph.add_edge(("node", node), "sink", capacity=size)
    value = nx.maximum_flow_value(graph, "source", "sink", flow_func=nx.algorithms.flow.edmonds_karp)
    return float(value)


@settings(max_examples=80, deadline=None)
@given(drawn=st.one_of(gathered(), spread()))
def test_every_slot_is_a_maximum_flow_of_what_the_ones_before_have_left(drawn: Problem) -> None:
    """No more than networkx finds and no less, also where that is nothing."""
    problem = _scaled(drawn)
    schedule = Static().schedule(problem)
    edges_s = {at_s for window in problem.windows for at_s in (window.start_s, window.end_s)}
    edges_s |= {at_s for demand in problem.demands for at_s in demand.ready_s.values()}
    instants_s = sorted({at_s for at_s in edges_s if at_s < schedule.completion_s} | {schedule.completion_s})
    left_bytes = {demand.name: demand.size_bytes for demand in problem.demands}
    busy = 0
    for start_s, end_s in pairwise(instants_s):
        sent = [share for share in schedule.shares if share.hops[0].start_s == start_s]
        best_bytes = _maximum_bytes(problem, left_bytes, start_s, end_s)
        assert sum(share.size_bytes for share in sent) == pytest.approx(best_bytes, abs=ROUNDING * problem.total_bytes)
        for share in sent:
            assert {(hop.start_s, hop.end_s) for hop in share.hops} == {(start_s, end_s)}  # end to end in the slot
            left_bytes[share.demand] -= share.size_bytes
            assert problem.demand[share.demand].ready_s[problem.windows[share.hops[0].window].sender] <= start_s
        busy += bool(sent)
    event(f"{min(busy, 4)} slots or more with bytes in them")
    assert sum(left_bytes.values()) == pytest.approx(0, abs=ROUNDING * problem.total_bytes)


@settings(max_examples=60, deadline=None)
@given(drawn=st.one_of(gathered(), spread(), mixed()))
def test_no_way_goes_in_a_circle_and_all_of_every_demand_is_sent(drawn: Problem) -> None:
    problem = _scaled(drawn)
    schedule = Static().schedule(problem)
    for share in schedule.shares:
        windows = [problem.windows[hop.window] for hop in share.hops]
        nodes = [windows[0].sender, *(window.receiver for window in windows)]
        assert len(set(nodes)) == len(nodes)
    for demand in problem.demands:
        sizes = [share.size_bytes for share in schedule.shares if share.demand == demand.name]
        assert sum(sizes) == pytest.approx(demand.size_bytes, rel=1e-12) and min(sizes) > 0
    assert schedule == Static().schedule(problem)


def test_nothing_is_moved_nearer_to_a_later_contact() -> None:
    """Satellite `a` sees `b` until 5 s, `b` the ground from 3 s on: between them a flow gets through, and only then."""
    a_to_b = Window("a", "b", 0, 5, 9e6)
    fits = Demand("x", {"a": 0.0}, "ground", 18e6)
    schedule = Static().schedule(Problem((a_to_b, Window("b", "ground", 3, 10, 9e6)), (fits,)))
    (share,) = schedule.shares
    assert [hop.start_s for hop in share.hops] == [3, 3] and schedule.completion_s == pytest.approx(5, rel=ROUNDING)
    too_much = Demand("x", {"a": 0.0}, "ground", 19e6)
    with pytest.raises(
        FlowError, match="by the end of the last window, 0:10 of mission time: 1 MB of it are left at a"
    ):
        Static().schedule(Problem((a_to_b, Window("b", "ground", 3, 10, 9e6)), (too_much,)))
    with pytest.raises(FlowError, match="18 MB of it are left at a") as raised:
        Static().schedule(Problem((a_to_b, Window("b", "ground", 5, 10, 9e6)), (fits,)))
    assert raised.value.found == "no link is too narrow or closes too early: another schedule may have it there in time"


def test_who_is_not_through_is_named_with_what_is_in_the_way() -> None:
    """Two satellites' bytes; that of `b` are too many for its contact. One more has no contact at all."""
    windows = Window("a", "ground", 0, 10, 1e6), Window("b", "ground", 0, 10, 1e6)
    demands = Demand("x", {"a": 0.0}, "ground", 5e6), Demand("y", {"b": 0.0}, "ground", 12e6)
    with pytest.raises(
        FlowError, match=r"^demand y cannot be at ground by .* 0:10 .*: 2 MB of it are left at b\n"
    ) as raised:
        Static().schedule(Problem(windows, demands))
    assert raised.value.found == "b -> ground between 0:00 and 0:10 of mission time: 2 MB of y too much for it"
    more = (*demands, Demand("z", {"c": 0.0}, "ground", 1e6))
    with pytest.raises(FlowError, match="^demand y .* 2 MB of it are left at b; another is not through either\n"):
        Static().schedule(Problem(windows, more))


def test_who_goes_first_of_those_that_are_alike() -> None:
    """At one satellite and for one place: by deadline, then by weight. Only in the second contact is there room for
    both."""
    windows = Window("a", "ground", 0, 5, 1e6), Window("a", "ground", 20, 30, 1e6)
    for second in (Demand("y", {"a": 0.0}, "ground", 5e6, 2.0), Demand("y", {"a": 0.0}, "ground", 5e6, 1.0, 6.0)):
        schedule = Static().schedule(Problem(windows, (Demand("x", {"a": 0.0}, "ground", 5e6), second)))
        assert [(share.demand, share.hops[0].window) for share in schedule.shares] == [("y", 0), ("x", 1)]
    to_a, to_b = Window("ground", "n", 0, 5, 1e6), Window("ground", "n", 20, 30, 1e6)
    out = Window("n", "a", 0, 30, 9e6), Window("n", "b", 0, 30, 9e6)
    demands = Demand("x", {"ground": 0.0}, "a", 5e6), Demand("y", {"ground": 0.0}, "b", 5e6, 1.0, 6.0)
    schedule = Static().schedule(Problem((to_a, to_b, *out), demands))
    assert [share.demand for share in schedule.shares] == ["y", "x"]


def test_the_last_delay_of_a_pass_is_not_used() -> None:
    """9 MB/s from 0 to 5 s, 0.5 s away: 40.5 MB arrive before the pass ends, and not one more. The link
    behind it closes a second before its end, but not where its next window begins."""
    window = Window("a", "b", 0, 5, 9e6, 0.5)
    schedule = Static().schedule(Problem((window,), (Demand("x", {"a": 0.0}, "b", 40.5e6),)))
    assert [hop.end_s for share in schedule.shares for hop in share.hops] == [pytest.approx(4.5)]
    with pytest.raises(FlowError):
        Static().schedule(Problem((window,), (Demand("x", {"a": 0.0}, "b", 41e6),)))
    onward = Window("b", "ground", 0, 4, 9e6, 1.0)
    way = Demand("x", {"a": 0.0}, "ground", 27e6)
    assert Static().schedule(Problem((window, onward), (way,))).completion_s == pytest.approx(3.0)
    longer = window, onward, Window("b", "ground", 4, 8, 9e6, 1.0)
    more = Demand("x", {"a": 0.0}, "ground", 40.5e6)
    assert Static().schedule(Problem(longer, (more,))).completion_s == pytest.approx(4.5)


def test_copies_leave_from_all_holders_and_no_byte_twice() -> None:
    """Two contacts at 3 and 1 MB/s and 8 MB that both satellites hold: 2 s, 6 MB by one and 2 by the other."""
    windows = Window("a", "ground", 0, 100, 3e6), Window("b", "ground", 0, 100, 1e6)
    both = Demand("x", {"a": 0.0, "b": 0.0}, "ground", 8e6)
    schedule = Static().schedule(Problem(windows, (both,)))
    sent = {0: 0.0, 1: 0.0}
    for share in schedule.shares:
        sent[share.hops[0].window] += share.size_bytes
    assert sent == pytest.approx({0: 6e6, 1: 2e6}, rel=1e-3)  # the search leaves the last slot a little too long
    assert schedule.completion_s == pytest.approx(2, abs=100 / 2**20)  # of a slot of 100 s


def test_a_release_begins_a_slot() -> None:
    windows = (Window("b", "ground", 0, 100, 1e6),)
    late = Demand("y", {"b": 50.0}, "ground", 5e6)
    assert Static().schedule(Problem(windows, (late,))).completion_s == pytest.approx(55, rel=1e-4)


def test_what_is_there_already_is_not_sent() -> None:
    problem = Problem((), (Demand("none", {"a": 0}, "b", 0), Demand("there", {"b": 3.0}, "b", 9)), start_s=1.0)
    schedule = Static().schedule(problem)
    assert [(share.demand, share.hops) for share in schedule.shares] == [("there", ())]
    assert schedule.completion_s == 3.0
