"""Flow problems drawn at random, what must hold of any schedule, and networkx as the oracle of what can be through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
from hypothesis import strategies as st

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
