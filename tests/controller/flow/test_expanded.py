"""Time-expanded schedules against networkx, and against what a link, a clock and a store allow."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
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
    grid_edges_s,
    maximum_flow,
    pooled,
)
from controller.flow.expanded import TOLERANCE, TimeExpanded, certified_bound_s
from controller.flow.network import network_of
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import Schedule, Share

SATELLITES = ("a", "b", "c")
STATIONS = ("north", "south")
ROUNDING = 1e-6
"""Share of a capacity or a size that integers and dust may cost."""


# Problems.


@st.composite
def windows(draw: st.DrawFn, back: bool = False) -> tuple[Window, ...]:
    """Contacts, inter-satellite links and backhauls at whole seconds and bytes per second."""
    ways = [(s, g) for s in SATELLITES for g in STATIONS] + [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
    found = []
    for _ in range(draw(st.integers(2, 9))):
        sender, receiver = draw(st.sampled_from(ways))
        if back and receiver in STATIONS:
            sender, receiver = receiver, sender
        start_s = draw(st.integers(0, 20))
        length_s = draw(st.integers(1, 15))
        found.append(Window(sender, receiver, start_s, start_s + length_s, draw(st.integers(1, 9))))
    for station in STATIONS:
        ends = ("ground", station) if back else (station, "ground")
        found.append(Window(*ends, 0, 50, draw(st.integers(2, 12))))
    return tuple(sorted(found, key=lambda w: (w.start_s, w.sender, w.receiver, w.end_s, w.rate_Bps)))


@st.composite
def gathered(draw: st.DrawFn) -> Problem:
    """Several satellites' bytes, ready at different times and in places at several nodes, to the ground."""
    demands = []
    for number, name in enumerate(SATELLITES[: draw(st.integers(1, 3))]):
        ready_s = {name: float(draw(st.integers(0, 9)))}
        if draw(st.booleans()):
            ready_s[SATELLITES[(number + 1) % 3]] = float(draw(st.integers(0, 9)))
        demands.append(Demand(f"from {name}", ready_s, "ground", draw(st.integers(1, 40)), draw(st.integers(1, 3))))
    return Problem(draw(windows()), tuple(demands), storage_bytes=draw(storage()))


@st.composite
def spread(draw: st.DrawFn) -> Problem:
    """The ground's bytes, ready at one time, to several satellites."""
    ready_s = float(draw(st.integers(0, 5)))
    names = SATELLITES[: draw(st.integers(1, 3))]
    demands = tuple(Demand(f"to {name}", {"ground": ready_s}, name, draw(st.integers(1, 40))) for name in names)
    return Problem(draw(windows(back=True)), demands, storage_bytes=draw(storage()))


@st.composite
def mixed(draw: st.DrawFn) -> Problem:
    """Up and down at once: no single flow."""
    up, down = draw(gathered()), draw(spread())
    together = tuple(sorted(up.windows + down.windows, key=lambda w: (w.start_s, w.sender, w.receiver)))
    return Problem(together, up.demands + down.demands, storage_bytes=up.storage_bytes)


def storage() -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(st.sampled_from((*STATIONS, "b")), st.integers(0, 20).map(float), max_size=2)


# What must hold of any schedule.


def check(problem: Problem, schedule: Schedule) -> None:
    """Every byte once; nothing leaves before it is there; windows and storage suffice at every instant."""
    sent_bytes: dict[str, float] = defaultdict(float)
    for share in schedule.shares:
        sent_bytes[share.demand] += share.size_bytes
        _check_way(problem, share)
    for demand in problem.demands:
        assert sent_bytes[demand.name] == pytest.approx(demand.size_bytes, rel=1e-12)
    _check_windows(problem, schedule.shares)
    for node, limit_bytes in problem.storage_bytes.items():
        held = [steps for share in schedule.shares for steps in _held(problem, share, node)]
        times_s = sorted({at_s for steps in held for at_s, _ in steps})
        for at_s in times_s:
            total = sum(_at(steps, at_s) for steps in held)
            assert total <= limit_bytes + ROUNDING * problem.total_bytes
    ends_s = [share.hops[-1].end_s for share in schedule.shares if share.hops]
    assert schedule.completion_s >= max(ends_s, default=problem.start_s)


def _check_way(problem: Problem, share: Share) -> None:
    demand = problem.demand[share.demand]
    if not share.hops:
        assert demand.destination in demand.ready_s
        return
    ways = [problem.windows[hop.window] for hop in share.hops]
    assert ways[0].sender in demand.ready_s
    assert share.hops[0].start_s >= max(demand.ready_s[ways[0].sender], problem.start_s)
    assert ways[-1].receiver == demand.destination
    assert share.hops[-1].end_s <= demand.deadline_s
    for hop, way in zip(share.hops, ways, strict=True):
        assert way.start_s <= hop.start_s < hop.end_s <= way.end_s
    for place, (hop, next_hop) in enumerate(zip(share.hops, share.hops[1:], strict=False)):
        assert ways[place].receiver == ways[place + 1].sender
        # At constant rates it never sends what has not come: it neither begins nor ends before.
        assert next_hop.start_s >= hop.start_s and next_hop.end_s >= hop.end_s


def _check_windows(problem: Problem, shares: Iterable[Share]) -> None:
    uses: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for share in shares:
        for hop in share.hops:
            uses[hop.window].append((hop.start_s, hop.end_s, share.size_bytes / (hop.end_s - hop.start_s)))
    for window, spans in uses.items():
        edges_s = sorted({at_s for start_s, end_s, _ in spans for at_s in (start_s, end_s)})
        for begin_s, end_s in zip(edges_s, edges_s[1:], strict=False):
            rate_Bps = sum(rate for start, end, rate in spans if start <= begin_s and end >= end_s)
            slack_bytes = ROUNDING * problem.total_bytes
            assert rate_Bps * (end_s - begin_s) <= problem.windows[window].rate_Bps * (end_s - begin_s) + slack_bytes


def _held(problem: Problem, share: Share, node: str) -> Iterable[list[tuple[float, float]]]:
    """What a relay holds of the share: (time, bytes), straight lines in between."""
    for hop, following in zip(share.hops, share.hops[1:], strict=False):
        if problem.windows[hop.window].receiver == node:
            times_s = sorted({hop.start_s, hop.end_s, following.start_s, following.end_s})
            came = np.interp(times_s, (hop.start_s, hop.end_s), (0, share.size_bytes))
            went = np.interp(times_s, (following.start_s, following.end_s), (0, share.size_bytes))
            yield list(zip(times_s, (came - went).tolist(), strict=True))


def _at(steps: list[tuple[float, float]], at_s: float) -> float:
    return float(np.interp(at_s, [time_s for time_s, _ in steps], [size for _, size in steps]))


# The oracle.


def carried_by(problem: Problem, by_s: Fraction) -> Fraction:
    """How many bytes can be through, as networkx has it: edmonds-karp over time cut at every event, in fractions."""
    events = {Fraction(t) for w in problem.windows for t in (w.start_s, w.end_s)}
    events |= {Fraction(t) for d in problem.demands for t in d.ready_s.values()}
    edges = sorted({t for t in events if problem.start_s < t < by_s} | {Fraction(problem.start_s), by_s})
    graph = nx.DiGraph()
    graph.add_nodes_from(("source", "sink"))
    cells = list(zip(edges, edges[1:], strict=False))
    for number, (begin, end) in enumerate(cells):
        for window in problem.windows:
            if window.start_s <= begin and end <= window.end_s:
                tail, head = (window.sender, number), (window.receiver, number)
                more = graph.edges[tail, head]["capacity"] if graph.has_edge(tail, head) else 0
                graph.add_edge(tail, head, capacity=more + Fraction(window.rate_Bps) * (end - begin))
        for node in {name for w in problem.windows for name in (w.sender, w.receiver)}:
            if number:
                limit = problem.storage_bytes.get(node)
                waits = {} if limit is None else {"capacity": Fraction(limit)}
                graph.add_edge((node, number - 1), (node, number), **waits)
        for demand in problem.demands:
            for node, at_s in demand.ready_s.items():
                if at_s <= begin:
                    graph.add_edge(("of", demand.name), (node, number))
            # Each demand's bytes are told apart at the end where demands do not all go to one place.
            if end <= demand.deadline_s:
                graph.add_edge((demand.destination, number), ("at", demand.destination))
    for demand in problem.demands:
        graph.add_edge("source", ("of", demand.name), capacity=Fraction(demand.size_bytes))
    for destination in {demand.destination for demand in problem.demands}:
        total = sum(Fraction(d.size_bytes) for d in problem.demands if d.destination == destination)
        graph.add_edge(("at", destination), "sink", capacity=total)
    value: Fraction = nx.maximum_flow_value(graph, "source", "sink", flow_func=nx.algorithms.flow.edmonds_karp)
    return value


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
        ExecutableCells(grid_edges_s(network, by_s, 5)),
        OptimisticCells(grid_edges_s(network, by_s, 5)),
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
