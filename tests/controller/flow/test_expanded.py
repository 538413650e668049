"""Time-expanded schedules against networkx, and against what a link, a clock and a store allow."""

from __future__ import annotations

import math
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controller.flow import expanded
from controller.flow.bound import lower_bound_s
from controller.flow.cells import (
    ExecutableCells,
    OptimisticCells,
    event_edges_s,
    expand,
    late_edges_s,
    maximum_flow,
    outer_edges_s,
    pooled,
)
from controller.flow.expanded import TOLERANCE, TimeExpanded, certified_bound_s
from controller.flow.network import network_of
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import Schedule, Share
from tests.controller.flow.problems import carried_by, check, gathered, mixed, spread


@given(st.one_of(gathered(), spread()))
@settings(max_examples=80)
def test_completion_is_the_least(problem: Problem) -> None:
    total = Fraction(problem.total_bytes)
    if carried_by(problem, Fraction(problem.end_s)) < total:
        with pytest.raises(FlowError):
            TimeExpanded().schedule(problem)
        with pytest.raises(FlowError):
            certified_bound_s(problem)
        return
    solution = TimeExpanded().solve(problem)
    check(problem, solution.schedule)
    latest_s = solution.schedule.completion_s
    assert carried_by(problem, Fraction(latest_s) + Fraction(1, 10**6)) == total
    proved_s = Fraction(solution.certified_bound_s) - Fraction(1, 10**6)
    assert proved_s <= 0 or carried_by(problem, proved_s) < total
    assert solution.certified_bound_s <= latest_s * (1 + 1e-12) <= solution.certified_bound_s * (1 + TOLERANCE) + 1e-9
    assert lower_bound_s(problem) <= latest_s * (1 + 1e-9)


@given(mixed())
@settings(max_examples=60)
def test_several_commodities_hold(problem: Problem) -> None:
    """Group by group: what is scheduled holds, and is never earlier than what is proved."""
    try:
        schedule = TimeExpanded().schedule(problem)
    except FlowError:
        return
    check(problem, schedule)
    assert certified_bound_s(problem) <= schedule.completion_s * (1 + 1e-9)


@given(st.one_of(gathered(), spread()))
@settings(max_examples=60)
def test_a_grid_is_sound(problem: Problem) -> None:
    """Where time is not cut at every event: schedules hold all the same, and take no less than is proved and least."""
    assume(carried_by(problem, Fraction(problem.end_s)) == problem.total_bytes)
    exact = TimeExpanded().solve(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expanded, "EXACT_VERTICES", 0)
        patch.setattr(expanded, "BOUND_VERTICES", 0)
        patch.setattr(expanded, "GRIDS", (40, 80, 160))
        try:
            coarse = TimeExpanded().solve(problem)
        except FlowError:
            coarse = None
        proved_s = certified_bound_s(problem)
    assert proved_s <= exact.schedule.completion_s * (1 + 1e-9)
    if coarse is not None:
        check(problem, coarse.schedule)
        assert coarse.certified_bound_s <= exact.schedule.completion_s * (1 + 1e-9)
        assert coarse.schedule.completion_s >= exact.certified_bound_s * (1 - 1e-9)


@given(gathered(), st.integers(1, 30))
@settings(max_examples=60)
def test_graph_is_what_networkx_says(problem: Problem, by_s: int) -> None:
    """The same integer arcs, another solver: equal values. And equal to the problem's own, but for the rounding."""
    network = network_of(problem)
    commodity = pooled(network, problem.demands)
    exact = OptimisticCells(event_edges_s(network, commodity, by_s))
    for cells in (
        exact,
        ExecutableCells(outer_edges_s(network, by_s, 5)),
        OptimisticCells(late_edges_s(network, by_s, 5)),
    ):
        graph = expand(network, commodity, cells)
        peer = nx.DiGraph()
        peer.add_nodes_from((graph.source, graph.sink))
        for tail, head, capacity in zip(*map(np.ndarray.tolist, (graph.tail, graph.head, graph.capacity)), strict=True):
            more = peer.edges[tail, head]["capacity"] if peer.has_edge(tail, head) else 0
            peer.add_edge(tail, head, capacity=capacity + more)
        flow = maximum_flow(graph)
        assert flow.value == nx.maximum_flow_value(peer, graph.source, graph.sink)
        for side in (flow.near_source, flow.near_sink):
            across = side[graph.tail] & ~side[graph.head]
            assert int(graph.capacity[across].sum()) == flow.value
        if cells is exact:
            rounding_bytes = len(graph.tail) * graph.unit_bytes
            possible_bytes = float(carried_by(problem, Fraction(by_s)))
            assert flow.value * graph.unit_bytes == pytest.approx(possible_bytes, abs=rounding_bytes)


def test_graded_cells_are_fine_at_the_ends_that_matter() -> None:
    """Each cell twice the next one, but never more than 2^5 times the finest; the ends are the problem's, exactly."""
    network = network_of(Problem((Window("a", "b", 0, 1000, 1),), (), start_s=3.0))
    assert outer_edges_s(network, 13.0, 4) == pytest.approx([3, 3 + 10 / 6, 8, 13 - 10 / 6, 13])
    assert late_edges_s(network, 10.0, 3) == pytest.approx([3, 7, 9, 10])
    for edges_s in (late_edges_s(network, 103.7, 40), outer_edges_s(network, 103.7, 40)):
        assert (edges_s[0], edges_s[-1], len(edges_s)) == (3.0, 103.7, 41)
        assert np.diff(edges_s).max() == pytest.approx(32 * np.diff(edges_s).min())


def test_holding_beats_slot_by_slot() -> None:
    """Two satellites, two slots: a flow per slot delivers 8 of 10 units, since it sends what could have waited."""
    windows = (
        Window("a", "north", 0, 1, 4),
        Window("b", "north", 0, 2, 4),
        Window("north", "ground", 0, 1, 4),
        Window("north", "ground", 1, 2, 6),
        Window("a", "b", 0, 2, 2),
    )
    demands = (Demand("of a", {"a": 0}, "ground", 6), Demand("of b", {"b": 0}, "ground", 4))
    schedule = TimeExpanded().schedule(Problem(windows, demands))
    assert schedule.completion_s == pytest.approx(2.0, rel=TOLERANCE)


def test_same_problem_same_schedule() -> None:
    problem = Problem(
        (Window("a", "north", 2, 9, 3), Window("b", "north", 0, 9, 2), Window("north", "ground", 0, 20, 4)),
        (Demand("of a", {"a": 0}, "ground", 12), Demand("of b", {"b": 1}, "ground", 7)),
    )
    assert TimeExpanded().schedule(problem) == TimeExpanded().schedule(problem)


def test_nothing_to_do() -> None:
    problem = Problem((), (Demand("none", {"a": 0}, "b", 0), Demand("there", {"b": 3.0}, "b", 9)), start_s=1.0)
    schedule = TimeExpanded().schedule(problem)
    assert schedule.shares == (Share("there", 9, ()),)
    assert schedule.completion_s == pytest.approx(3.0)
    assert TimeExpanded().schedule(Problem((), (), start_s=5.0)) == Schedule((), 5.0)


def test_adjoining_windows_are_one_link_and_a_delay_costs_its_end() -> None:
    """At 1 B/s for 10 s, 0.5 s away, cut in two by a change of delay: 9.5 bytes arrive, and not one more."""
    windows = Window("a", "b", 0, 4, 1, 0.3), Window("a", "b", 4, 10, 1, 0.5)
    schedule = TimeExpanded().schedule(Problem(windows, (Demand("all", {"a": 0}, "b", 9.5),)))
    assert schedule.completion_s == pytest.approx(9.5)
    assert sum(share.size_bytes for share in schedule.shares) == pytest.approx(9.5)
    with pytest.raises(FlowError):
        TimeExpanded().schedule(Problem(windows, (Demand("all", {"a": 0}, "b", 9.6),)))


def test_a_guard_leaves_the_ends_of_links() -> None:
    windows = Window("a", "b", 0, 5, 1), Window("a", "b", 8, 20, 1)
    problem = Problem(windows, (Demand("all", {"a": 0}, "b", 6),))
    assert TimeExpanded().schedule(problem).completion_s == pytest.approx(9.0)
    guarded = TimeExpanded(guard_s=1.0).solve(problem)
    assert guarded.schedule.completion_s == pytest.approx(10.0)
    assert guarded.certified_bound_s == pytest.approx(9.0)


# Deadlines and weights.


def test_a_deadline_is_met_though_others_end_later() -> None:
    """Two satellites' bytes over one contact down: the later name is the urgent one."""
    windows = Window("ground", "north", 0, 100, 2), Window("north", "a", 0, 100, 9), Window("north", "b", 0, 100, 9)
    demands = (
        Demand("slow", {"ground": 0}, "a", 20),
        Demand("urgent", {"ground": 0}, "b", 20, deadline_s=10.5),
    )
    problem = Problem(windows, demands)
    schedule = TimeExpanded().schedule(problem)
    check(problem, schedule)
    assert schedule.completion_s == pytest.approx(20.0, rel=TOLERANCE)


def test_deadlines_of_several_origins() -> None:
    """Two origins and two deadlines are two flows: the urgent one goes first."""
    windows = Window("a", "north", 0, 100, 2), Window("b", "north", 0, 100, 9), Window("north", "ground", 0, 100, 2)
    demands = Demand("slow", {"a": 0}, "ground", 20), Demand("urgent", {"b": 0}, "ground", 20, deadline_s=10.0)
    problem = Problem(windows, demands)
    schedule = TimeExpanded().schedule(problem)
    check(problem, schedule)
    assert schedule.completion_s == pytest.approx(20.0, rel=TOLERANCE)


def test_a_deadline_that_cannot_be_met_names_the_bottleneck() -> None:
    windows = Window("sat-0-1", "svalbard", 33, 250, 100), Window("svalbard", "ground", 0, 600, 1000)
    demand = Demand("round 1", {"sat-0-1": 0}, "ground", 1e5, deadline_s=250)
    with pytest.raises(FlowError) as raised:
        TimeExpanded().schedule(Problem(windows, (demand,)))
    assert raised.value.found == (
        "sat-0-1 -> svalbard between 0:33 and 4:10 of mission time: 78.3 kB of round 1 too much for it"
    )
    assert "round 1 cannot be at ground by its deadline, 4:10 of mission time" in str(raised.value)


def test_heavier_first_where_it_costs_nothing() -> None:
    """Both wait at one satellite for its only contact: all of the heavy one leaves in the contact's first cells."""
    windows = Window("a", "b", 0, 1, 20), Window("b", "ground", 5, 10, 2), Window("b", "ground", 12, 17, 2)
    for light, heavy in (("x", "y"), ("y", "x")):
        demands = [Demand(light, {"a": 0}, "ground", 10), Demand(heavy, {"a": 0}, "ground", 10, weight=2.0)]
        schedule = TimeExpanded().schedule(Problem(windows, tuple(demands)))
        assert schedule.completion_s == pytest.approx(17.0, rel=TOLERANCE)
        last_s = {name: max(s.hops[-1].end_s for s in schedule.shares if s.demand == name) for name in (light, heavy)}
        assert last_s[heavy] == pytest.approx(10.0) and last_s[light] == pytest.approx(17.0, rel=TOLERANCE)


def test_many_satellites_that_wait_for_their_own_pass() -> None:
    """Without links between them the pooled bound is worth little: the search must not take a step per satellite."""
    rng = np.random.default_rng(7)
    starts_s = np.sort(rng.uniform(0, 5000, 60)).tolist()
    windows = [Window(f"s{n}", "ground", at_s, at_s + 200, 10.0) for n, at_s in enumerate(starts_s)]
    sizes = rng.uniform(100, 1900, 60).tolist()
    demands = tuple(Demand(f"of s{n}", {f"s{n}": 0.0}, "ground", size) for n, size in enumerate(sizes))
    solution = TimeExpanded().solve(Problem(tuple(windows), demands))
    least_s = max(at_s + size / 10 for at_s, size in zip(starts_s, sizes, strict=True))
    assert solution.schedule.completion_s == pytest.approx(least_s, rel=TOLERANCE)
    assert solution.certified_bound_s <= least_s * (1 + 1e-12)
    assert solution.solves <= 12
    assert not math.isinf(solution.certified_bound_s)
