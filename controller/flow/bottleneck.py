"""What stands in the way: minimum cuts, how long they last, and what they are called.

A cut parts the vertices (nodes in cells) in two; what crosses it bounds what gets through. A cut of one horizon is one
of every longer one, too, when each node stays on the side on which it was last: so a cut that is too small also says
until when at least it stays too small. That is how the scheduler's search moves on (the discrete Newton method for
parametric cuts; Radzik in "Complexity in Numerical Optimization", 1993), and each of its steps is a proof.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from controller.flow.bound import carried_s
from controller.flow.cells import (
    Flow,
    OptimisticCells,
    event_edges_s,
    expand,
    grid_edges_s,
    maximum_flow,
    pooled,
    ready_key,
    useful_links,
)
from controller.flow.network import Bools, network_of
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem

MOST_NAMED = 4
"""Links that a text names one by one."""

CUT_VERTICES = 60_000
"""Where time cut at every event makes more vertices, a cut is looked for on a grid of about so many."""


@dataclass(frozen=True)
class Span:
    """A link, and a time in which it belongs to the cut. ``size_bytes`` is what it can carry in it."""

    sender: str
    receiver: str
    start_s: float
    end_s: float
    size_bytes: float


@dataclass(frozen=True)
class Cut:
    """All that ``demands`` could use until ``by_s`` and what they lack beyond.

    ``windows`` (their places in ``Problem.windows``) and ``spans`` are the links in the cut, ``storage`` the nodes
    whose storage is in it. ``missing_bytes`` is what cannot be through; 0, and everything empty, where all can.
    """

    by_s: float
    missing_bytes: float
    demands: tuple[str, ...] = ()
    windows: tuple[int, ...] = ()
    spans: tuple[Span, ...] = ()
    storage: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.missing_bytes:
            return f"everything can be through by {clock(self.by_s)} of mission time"
        whose = _listed(self.demands)
        if not self.spans and not self.storage:
            return f"nothing leads to where {whose} should be by {clock(self.by_s)} of mission time"
        ways = [f"{s.sender} -> {s.receiver} between {clock(s.start_s)} and {clock(s.end_s)}" for s in self.spans]
        ways += [f"the storage of {name}" for name in self.storage]
        return f"{_listed(ways)} of mission time: {amount(self.missing_bytes)} of {whose} too much for it"


def bottleneck(problem: Problem, by_s: float) -> str:
    """What keeps the demands from being through by an instant (mission time), in words."""
    return str(find_cut(problem, by_s))


def in_the_way(problem: Problem, demand: Demand) -> str:
    """What keeps a demand from being through in time whatever the schedule, in words; and where that is nothing, that
    it is the schedule."""
    cut = find_cut(problem, problem.end_s)
    if demand.name in cut.demands:
        return str(cut)
    return "no link is too narrow or closes too early: another schedule may have it there in time"


def too_late(demand: Demand, end_s: float, found: str, more: str = "") -> FlowError:
    """The error for a demand that is not through by its deadline, or by ``end_s``, when the last window ends.
    ``found`` is what is in the way; ``more`` ends the sentence."""
    late = "its deadline" if demand.deadline_s <= end_s else "the end of the last window"
    by = clock(min(demand.deadline_s, end_s))
    return FlowError(
        f"demand {demand.name} cannot be at {demand.destination} by {late}, {by} of mission time{more}",
        field="flow",
        found=found,
        allowed="more or longer windows, fewer bytes or a later deadline",
    )


def find_cut(problem: Problem, by_s: float) -> Cut:
    """What keeps the demands from being through by an instant. Bytes of different demands may stand in for each other
    in it (see ``pooled``): what it says is missing is missing, but more may be."""
    network = network_of(problem)
    commodity = pooled(network, [demand for demand in problem.demands if demand.size_bytes > 0])
    if not commodity.demands:
        return Cut(by_s, 0.0)
    network = network.only(useful_links(network, commodity))
    edges_s = event_edges_s(network, commodity, by_s)
    if len(edges_s) * len(network.names) > CUT_VERTICES:
        edges_s = grid_edges_s(network, by_s, max(CUT_VERTICES // len(network.names), 1))
    return cut_of(maximum_flow(expand(network, commodity, OptimisticCells(edges_s))))


def cut_of(flow: Flow) -> Cut:
    """The minimum cut of a flow that falls short, on the side that is said in fewer words."""
    by_s = float(flow.graph.cells.edges_s[-1])
    if flow.is_through:
        return Cut(by_s, 0.0)
    return min((_described(flow, side, by_s) for side in (flow.near_sink, flow.near_source)), key=_wordiness)


def still_short_until_s(flow: Flow) -> float:
    """Until when (at least) bytes are missing, by a flow that falls short and its cuts; infinite if for good."""
    return max(_short_until_s(flow, side) for side in (flow.near_source, flow.near_sink))


def _short_until_s(flow: Flow, side: Bools) -> float:
    graph = flow.graph
    network, links = graph.network, graph.network.links
    by_s = float(graph.cells.edges_s[-1])
    nodes = len(network.names)
    last = side[nodes * (graph.cells.count - 1) : nodes * graph.cells.count]
    growing = links.chosen(last[links.sender] & ~last[links.receiver] & (links.end_s > by_s))
    slack_bytes = len(graph.tail) * graph.unit_bytes
    until_s = carried_s(growing, by_s, flow.missing_bytes - slack_bytes)
    first_supply = nodes * graph.cells.count
    for number, supply in enumerate(graph.commodity.supplies):
        if side[first_supply + number]:  # its bytes will leap over the cut where they become ready beyond it
            until_s = min(
                until_s, *(at_s for node, at_s in supply.ready_s if at_s >= by_s and not last[node]), math.inf
            )
    return until_s


def _described(flow: Flow, side: Bools, by_s: float) -> Cut:
    graph, crossings = flow.graph, flow.graph.crossings
    links = graph.network.links
    across = side[graph.tail] & ~side[graph.head]
    cut = np.flatnonzero(across[graph.crossed] & (graph.capacity[graph.crossed] > 0))
    spans: dict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)
    windows: set[int] = set()
    for place in cut[np.argsort(crossings.start_s[cut], kind="stable")].tolist():
        link = int(crossings.link[place])
        start_s, end_s = float(crossings.start_s[place]), float(crossings.end_s[place])
        windows.update(graph.network.runs.windows_in(int(links.base[link]), start_s, end_s))
        of_link = spans[int(links.sender[link]), int(links.receiver[link])]
        size_bytes = float(crossings.size_bytes[place])
        if of_link and of_link[-1][1] >= start_s:
            start_s, _, more_bytes = of_link.pop()
            size_bytes += more_bytes
        of_link.append((start_s, end_s, size_bytes))
    names = graph.network.names
    named = [Span(names[a], names[b], *span) for (a, b), of_link in spans.items() for span in of_link]
    waiting = np.flatnonzero(across[graph.waits])
    full = {names[int(graph.tail[graph.waits.start + place]) % len(names)] for place in waiting}
    return Cut(
        by_s,
        flow.missing_bytes,
        _short(flow),
        tuple(sorted(windows)),
        tuple(sorted(named, key=lambda span: (-span.size_bytes, span.start_s, span.sender, span.receiver))),
        tuple(sorted(full)),
    )


def _short(flow: Flow) -> tuple[str, ...]:
    """Demands that lack bytes: some of what they have cannot leave, and some of what they want cannot arrive."""
    graph = flow.graph
    first_supply = len(graph.network.names) * graph.cells.count
    first_sink = first_supply + len(graph.commodity.supplies)
    held = {
        supply.ready_s
        for place, supply in enumerate(graph.commodity.supplies)
        if flow.near_source[first_supply + place]
    }
    starved = {
        (sink.node, sink.deadline_s)
        for place, sink in enumerate(graph.commodity.sinks)
        if not flow.near_sink[first_sink + place]
    }
    number, demands = graph.network.number, graph.commodity.demands
    found = [
        demand.name
        for demand in demands
        if ready_key(graph.network, demand) in held and (number[demand.destination], demand.deadline_s) in starved
    ]
    return tuple(found or [demand.name for demand in demands])


def _wordiness(cut: Cut) -> tuple[int, int]:
    return len(cut.spans) + len(cut.storage), len(cut.windows)


def clock(at_s: float) -> str:
    """Mission time as m:ss, or h:mm:ss from an hour on."""
    minutes, seconds = divmod(round(at_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _listed(words: list[str] | tuple[str, ...]) -> str:
    named, more = list(words[:MOST_NAMED]), len(words) - MOST_NAMED
    if more > 0:
        named.append(f"{more} more")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def amount(size_bytes: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.4g} GB"
