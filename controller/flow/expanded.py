"""The default scheduler: quickest transshipment over the whole horizon (Hoppe and Tardos, Math. Oper. Res. 25, 2000).

When all demands go to one node, or are ready at the same nodes at the same times, their bytes can stand in for each
other: that is one maximum flow, and the schedule is optimal but for rounding, the search's tolerance, delays, and,
where there are too many events, the grid (:mod:`controller.flow.cells`). Other problems are solved group by group: each
group of demands is such a flow, as quick as the windows and the storage allow that earlier groups have left. Groups go
by deadline, then weight (heavier first), then release. Their schedules hold, but only each by itself is quickest, and
a later group may be found to have no way left where another order would have had one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np

from controller.flow.bottleneck import cut_of, still_short_until_s, too_late
from controller.flow.bound import network_bound_s
from controller.flow.cells import (
    Commodity,
    ExecutableCells,
    Flow,
    OptimisticCells,
    event_edges_s,
    expand,
    late_edges_s,
    maximum_flow,
    outer_edges_s,
    pooled,
    ready_key,
    useful_links,
)
from controller.flow.network import Bools, Floats, Network, network_of
from controller.flow.paths import crossings_used, deliveries
from testbed.errors import BugError, FlowError
from testbed.flow.problem import Demand, Problem
from testbed.flow.schedule import FlowScheduler, Hop, Schedule, Share

EXACT_VERTICES = 30_000
"""Time is cut at every event as long as that makes no more vertices than this (a solve of some hundredths of a
second)."""

BOUND_VERTICES = 20_000
"""Beyond it the bound is sought on a grid of about so many."""

GRIDS = (20_000, 48_000, 144_000)
"""Vertices of the grids on which a schedule is made where time cannot be cut at every event: the first whose schedule
takes no more than ``GAP`` beyond the bound, else the last. A fine one costs more to solve and to follow."""

GAP = 5e-3
"""Half of what a replay may take beyond the bound."""

TOLERANCE = 1e-3
"""How much longer than the least a schedule may be found to take, as a share of it."""

LEAST_CELLS = 8
"""Of a grid, however many nodes there are."""

DUST = 1e-7
"""Shares that are less of their demand than this are not sent: their bytes go with its largest one."""

CLIMBS = 2
CLIMB_CELLS = 4
"""How many steps towards the bound are taken on cells so few that they cost a fraction of one on the grid."""

PATIENCE = 3
"""Steps of the search that go no further than is proved, before it leaps."""


@dataclass(frozen=True)
class Solution:
    """A schedule, and the mission time before which no schedule can be through, as maximum flows have proved."""

    schedule: Schedule
    certified_bound_s: float
    solves: int


class TimeExpanded(FlowScheduler):
    """Quickest transshipment. ``guard_s`` of each link's end are left unused, for what a real link lags behind a fluid.

    Each demand is through by its deadline, or a FlowError names it and the bottleneck. ``weight`` decides where it
    costs no other demand's completion: of bytes that wait at one node the heaviest demand's leave first, of demands
    that are alike the heavier gets the earlier arrivals, and of shares that are planned to arrive together the heavier
    is sent first. Between groups (see the module) it comes before release, and may delay lighter groups.
    """

    name: ClassVar[str] = "time-expanded"
    reroutable: ClassVar[bool] = True

    def __init__(self, guard_s: float = 0.0) -> None:
        self._guard_s = guard_s

    def schedule(self, problem: Problem) -> Schedule:
        """Shares by planned arrival.

        No one order is right on every link of a busy network: where shares meet, the one whose hop there has the
        earlier ``start_s`` goes first, and this order decides among equals. A hop may run on into the next windows of
        its link where they adjoin at the same rate. Delays are not counted (see :mod:`controller.flow.cells`).
        """
        return self._solved(problem)[0]

    def solve(self, problem: Problem) -> Solution:
        """The schedule with its certificate."""
        schedule, bound_s, solves = self._solved(problem)
        if bound_s is None or self._guard_s:
            bound_s, more = _least_s(problem)
            solves += more
        return Solution(schedule, bound_s, solves)

    def _solved(self, problem: Problem) -> tuple[Schedule, float | None, int]:
        """The schedule, the bound where it follows from the one group there is, and how many flows it took."""
        network = network_of(problem, self._guard_s)
        shares: list[_Planned] = []
        bound_s: float | None = problem.start_s
        solves = 0
        groups = _groups(network, [demand for demand in problem.demands if demand.size_bytes > 0])
        for number, group in enumerate(groups):
            commodity = pooled(network, group)
            used = useful_links(network, commodity)
            search = _Search(problem, network.only(used), commodity)
            flow, least_s = search.quickest()
            shares += _shares(flow)
            solves += search.solves
            bound_s = least_s if len(groups) == 1 else None
            if number + 1 < len(groups):
                network = _left_by(network, used, flow)
        shares.sort(key=lambda one: one.order)
        completion_s = max((one.order[0] for one in shares), default=problem.start_s)
        return Schedule(tuple(one.share for one in shares), completion_s), bound_s, solves


def certified_bound_s(problem: Problem) -> float:
    """The mission time before which no schedule can be through, proved by maximum flows in which bytes of different
    demands may stand in for each other. Raises FlowError where even they never are."""
    return _least_s(problem)[0]


def _least_s(problem: Problem) -> tuple[float, int]:
    network = network_of(problem)
    demands = [demand for demand in problem.demands if demand.size_bytes > 0]
    if not demands:
        return problem.start_s, 0
    commodity = pooled(network, demands)
    search = _Search(problem, network.only(useful_links(network, commodity)), commodity)
    _, least_s = search.least(search.bound_s())
    return least_s, search.solves


def _groups(network: Network, demands: Sequence[Demand]) -> list[list[Demand]]:
    """Demands that are one commodity each: by destination and deadline, or by where and when they are ready, whichever
    makes fewer groups."""

    def by(key: Callable[[Demand], object]) -> list[list[Demand]]:
        groups: dict[object, list[Demand]] = defaultdict(list)
        for demand in demands:
            groups[key(demand)].append(demand)
        return list(groups.values())

    def urgency(group: list[Demand]) -> tuple[float, float, float]:
        release_s = min(min(demand.ready_s.values()) for demand in group)
        return min(d.deadline_s for d in group), -max(d.weight for d in group), release_s

    together = by(lambda demand: (demand.destination, demand.deadline_s))
    alike = by(lambda demand: ready_key(network, demand))
    return sorted(alike if len(alike) < len(together) else together, key=urgency)


class _Search:
    """For the earliest instant by which a maximum flow carries everything."""

    def __init__(self, problem: Problem, network: Network, commodity: Commodity) -> None:
        self._problem, self._network, self._commodity = problem, network, commodity
        self.solves = 0

    def bound_s(self) -> float:
        """Where to begin."""
        return network_bound_s(self._network, self._commodity.demands)

    def quickest(self) -> tuple[Flow, float]:
        """A flow that can be sent, and an instant before which none can be through."""
        flow, least_s = self.least(self.bound_s())
        if self._is_exact(flow.by_s):
            return flow, least_s
        good_s = least_s + GAP * (least_s - self._network.start_s)
        for vertices in GRIDS[:-1]:
            found, proved_s = self._earliest(least_s, partial(self._executable, vertices), good_s)
            if found is not None and proved_s <= good_s:
                return found, least_s
        return self._certain(least_s, partial(self._executable, GRIDS[-1]))[0], least_s

    def least(self, from_s: float) -> tuple[Flow, float]:
        """The same by optimistic cells: the flow can be sent only where they are exact."""
        return self._certain(self._climbed_s(from_s), self._optimistic)

    def _climbed_s(self, from_s: float) -> float:
        """A later instant to begin at where time is not cut at every event: proved by flows that cost little."""
        at_s = from_s
        for _ in range(CLIMBS):
            if at_s >= self._network.end_s or self._is_exact(at_s):
                break
            flow = self._flow(at_s, lambda by_s: OptimisticCells(late_edges_s(self._network, by_s, CLIMB_CELLS)))
            proved_s = at_s if flow.is_through else still_short_until_s(flow)
            if not at_s < proved_s < math.inf:
                break
            at_s = proved_s
        return at_s

    def _edges_s(self, by_s: float) -> Floats:
        return event_edges_s(self._network, self._commodity, by_s)

    def _is_exact(self, by_s: float) -> bool:
        return len(self._edges_s(by_s)) * len(self._network.names) <= EXACT_VERTICES

    def _cells(self, vertices: int) -> int:
        return max(vertices // len(self._network.names), LEAST_CELLS)

    def _optimistic(self, by_s: float) -> OptimisticCells:
        if self._is_exact(by_s):
            return OptimisticCells(self._edges_s(by_s))
        return OptimisticCells(late_edges_s(self._network, by_s, self._cells(BOUND_VERTICES)))

    def _executable(self, vertices: int, by_s: float) -> OptimisticCells:
        if self._is_exact(by_s):
            return OptimisticCells(self._edges_s(by_s))
        return ExecutableCells(outer_edges_s(self._network, by_s, self._cells(vertices)))

    def _flow(self, by_s: float, cells: Callable[[float], OptimisticCells]) -> Flow:
        self.solves += 1
        return maximum_flow(expand(self._network, self._commodity, cells(by_s)))

    def _certain(self, from_s: float, cells: Callable[[float], OptimisticCells]) -> tuple[Flow, float]:
        flow, least_s = self._earliest(from_s, cells, math.inf)
        if flow is None:
            raise BugError("a search without limit has found nothing")
        return flow, least_s

    def _earliest(
        self, from_s: float, cells: Callable[[float], OptimisticCells], limit_s: float
    ) -> tuple[Flow | None, float]:
        """A flow that is through, and until when none was (within the tolerance of each other). None where that goes
        beyond the limit.

        Each flow that falls short proves by its cut until when others do. That is where the search goes next. When
        that has not led there in a few steps (many satellites that each wait for a pass of their own), it leaps ever
        further until a flow is through, and takes halves and proofs in turn.
        """
        start_s, horizon_s = self._network.start_s, self._network.end_s
        low_s, at_s, leaps = from_s, min(from_s, horizon_s), -PATIENCE
        through: Flow | None = None
        while True:
            flow = self._flow(at_s, cells)
            if flow.is_through:
                through, proof_next = flow, True
            else:
                proved_s = still_short_until_s(flow)
                if math.isinf(proved_s) or at_s >= horizon_s:
                    raise self._impossible(flow)
                proof_next = through is None or at_s > low_s  # else the proof is worth less than a half
                low_s = max(low_s, proved_s, math.nextafter(at_s, math.inf))
            tolerance_s = TOLERANCE * (low_s - start_s)
            if low_s > limit_s or (through is not None and through.by_s - low_s <= tolerance_s):
                return through, low_s
            if through is None:
                leaps += 1
                at_s = min(low_s + (tolerance_s * 2.0**leaps if leaps >= 0 else 0.0), horizon_s)
            else:
                at_s = low_s if proof_next else (low_s + through.by_s) / 2

    def _impossible(self, flow: Flow) -> FlowError:
        cut = cut_of(flow)
        demand = min((self._problem.demand[name] for name in cut.demands), key=lambda one: one.deadline_s)
        return too_late(demand, self._network.end_s, str(cut))


class _Planned(NamedTuple):
    share: Share
    order: tuple[float, float, float]
    """Its arrival, minus its weight, when it begins its last hop."""


def _shares(flow: Flow) -> Iterator[_Planned]:
    """The flow as shares of demands, whole: what rounding has lost is added to each demand's largest share."""
    graph = flow.graph
    network = graph.network
    alike: dict[tuple[object, int], list[Demand]] = defaultdict(list)
    for demand in graph.commodity.demands:
        alike[ready_key(network, demand), network.number[demand.destination]].append(demand)
    for demands in alike.values():
        demands.sort(key=lambda demand: (demand.deadline_s, -demand.weight))
    left_bytes = {demand.name: demand.size_bytes for demand in graph.commodity.demands}
    parts: dict[str, list[tuple[float, list[int]]]] = {name: [] for name in left_bytes}
    heaviest: dict[object, float] = defaultdict(float)
    for (key, _), demands in alike.items():
        heaviest[key] = max(heaviest[key], *(demand.weight for demand in demands))
    keys = [supply.ready_s for supply in graph.commodity.supplies]
    for one in deliveries(flow, [heaviest[key] for key in keys]):
        units_bytes = one.units * graph.unit_bytes
        for demand in alike[keys[one.supply], one.node]:
            part_bytes = min(units_bytes, left_bytes[demand.name])
            left_bytes[demand.name] -= part_bytes
            units_bytes -= part_bytes
            if part_bytes > DUST * demand.size_bytes:
                parts[demand.name].append((part_bytes, one.moves))

    hops = _hops(flow)
    for demand in graph.commodity.demands:
        mine = parts[demand.name]
        if not mine:
            raise BugError(f"the flow has lost {demand.name}")
        largest = max(range(len(mine)), key=lambda place: mine[place][0])
        others_bytes = math.fsum(size for place, (size, _) in enumerate(mine) if place != largest)
        mine[largest] = demand.size_bytes - others_bytes, mine[largest][1]
        for size_bytes, way in mine:
            share = Share(demand.name, size_bytes, tuple([hops[move] for move in way]))
            if way:
                last = share.hops[-1]
                yield _Planned(share, (last.end_s, -demand.weight, last.start_s))
            else:
                at_s = max(demand.ready_s[demand.destination], network.start_s)
                yield _Planned(share, (at_s, -demand.weight, at_s))


def _hops(flow: Flow) -> list[Hop]:
    """Of the crossings that carry anything."""
    crossings, network, used = flow.graph.crossings, flow.graph.network, crossings_used(flow)
    start_s, end_s = crossings.start_s[used], crossings.end_s[used]
    windows = network.runs.windows_at(network.links.base[crossings.link[used]], start_s)
    return [Hop(*columns) for columns in zip(windows.tolist(), start_s.tolist(), end_s.tolist(), strict=True)]


def _left_by(network: Network, used: Bools, flow: Flow) -> Network:
    """What a flow over some of the links leaves to later groups."""
    graph = flow.graph
    held: Floats = np.zeros(len(network.names))
    node, _ = graph.place(graph.tail[graph.waits])
    np.maximum.at(held, node, flow.by_arc[graph.waits] * graph.unit_bytes)
    used_bytes: Floats = flow.by_arc[graph.crossed].astype(np.float64) * graph.unit_bytes
    rest = graph.network.less(graph.crossings, used_bytes, held)
    return replace(rest, links=network.links.chosen(~used).joined(rest.links))
