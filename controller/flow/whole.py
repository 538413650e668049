"""Whole chunks from a fluid plan: each demand along one way, or, where the end of a contact cuts it, two."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.flow.bottleneck import clock
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import Hop, Schedule, Share

TOUCH_S = 1e-6
"""Windows of a link that are no further apart are one pass, in which only its rate changes."""


def whole(problem: Problem, schedule: Schedule) -> Schedule:
    """A schedule in which no demand is split, near the fluid one.

    In the order in which the fluid plan begins them, demands are placed where they are through first: on one of their
    own ways, not before it was planned; or, when none of those has room in time, on whatever way is earliest then.
    What the end of a pass would cut on the way's first link may be finished by another way into the same node, which
    has the first part, and on from there as planned. FlowError when a demand finds no room.
    """
    return _Placing(problem, schedule).schedule()


class _Link:
    """One directed link: its passes, each of windows that touch, and from when on it is free."""

    def __init__(self, free_s: float) -> None:
        self.free_s = free_s
        self.passes: list[list[tuple[int, Window]]] = []

    def add(self, index: int, window: Window) -> None:
        """Windows come in order of their starts."""
        if self.passes and window.start_s <= self.passes[-1][-1][1].end_s + TOUCH_S:
            self.passes[-1].append((index, window))
        else:
            self.passes.append([(index, window)])

    def coming(self, at_s: float) -> Iterator[list[tuple[int, Window]]]:
        """The passes that are not over."""
        return (one for one in self.passes if one[-1][1].end_s > at_s)


@dataclass(frozen=True)
class _Crossing:
    """A link crossed: the hop, the bytes that got over before the pass ended, and when they are there."""

    hop: Hop
    size_bytes: float
    arrives_s: float


def _cross(one: Sequence[tuple[int, Window]], at_s: float, size_bytes: float) -> _Crossing:
    """As much as one pass carries from ``at_s`` on, before its end."""
    first = bisect_right([window.end_s for _, window in one], at_s)
    index, window = one[first]
    begins_s = now_s = max(at_s, window.start_s)
    left = size_bytes
    for _, window in one[first:]:
        now_s = max(now_s, window.start_s)
        done_s = now_s + left / window.rate_Bps
        if done_s <= window.end_s:
            return _Crossing(Hop(index, begins_s, done_s), size_bytes, done_s + window.delay_s)
        left -= (window.end_s - now_s) * window.rate_Bps
        now_s = window.end_s
    return _Crossing(Hop(index, begins_s, now_s), size_bytes - left, now_s + window.delay_s)


@dataclass(frozen=True)
class _Placed:
    """Where a demand goes: one share, or two of which the second has what a pass's end cut off the first."""

    shares: tuple[Share, ...]
    arrives_s: float


class _Placing:
    """Demands on links, one after the other."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self._problem = problem
        self._links: dict[tuple[str, str], _Link] = {}
        for index in sorted(range(len(problem.windows)), key=lambda i: problem.windows[i].start_s):
            window = problem.windows[index]
            link = self._links.setdefault((window.sender, window.receiver), _Link(problem.start_s))
            link.add(index, window)
        self._onward: dict[str, list[str]] = defaultdict(list)
        for sender, receiver in sorted(self._links):
            self._onward[sender].append(receiver)
        self._completion_s = schedule.completion_s
        # Ways are nodes, the holder first. By demand: when the plan begins on it, and how much of the demand it has.
        self._own: dict[str, list[tuple[float, float, tuple[str, ...]]]] = defaultdict(list)
        self._not_before_s: dict[str, float] = {}
        for share in schedule.shares:
            if share.hops:
                windows = [problem.windows[hop.window] for hop in share.hops]
                nodes = (windows[0].sender, *(window.receiver for window in windows))
                self._own[share.demand].append((share.hops[0].start_s, share.size_bytes, nodes))
                before_s = self._not_before_s.get(share.demand, math.inf)
                self._not_before_s[share.demand] = min(before_s, share.not_before_s)
        self._every = sorted({nodes for ways in self._own.values() for _, _, nodes in ways})

    def schedule(self) -> Schedule:
        """Everything, in order."""
        shares: list[Share] = []
        completion_s = self._problem.start_s
        for demand in self._in_order():
            if demand.destination in demand.ready_s:
                placed = _Placed((Share(demand.name, demand.size_bytes, ()),), demand.ready_s[demand.destination])
            else:
                placed = self._best(demand)
                self._occupy(placed)
            shares += placed.shares
            completion_s = max(completion_s, placed.arrives_s)
        return Schedule(tuple(shares), completion_s)

    def _in_order(self) -> list[Demand]:
        begins_s = {name: min(begin_s for begin_s, _, _ in ways) for name, ways in self._own.items()}
        return sorted(
            self._problem.demands,
            key=lambda d: (begins_s.get(d.name, -math.inf), -d.weight, min(d.ready_s.values()), d.name),
        )

    def _occupy(self, placed: _Placed) -> None:
        for share in placed.shares:
            for hop in share.hops:
                window = self._problem.windows[hop.window]
                link = self._links[window.sender, window.receiver]
                link.free_s = max(link.free_s, hop.end_s)

    def _best(self, demand: Demand) -> _Placed:
        planned = sorted(self._own[demand.name], key=lambda way: (-way[1], way[0], way[2]))
        options = [placed for begin_s, _, nodes in planned for placed in self._options(demand, nodes, begin_s)]
        if not options or min(placed.arrives_s for placed in options) > self._completion_s + self._lag_s(options[0]):
            # A pass has no room for the last chunk that the fluid plan put half into it.
            found = self._earliest(demand)
            options += [] if found is None else self._options(demand, found, 0.0)
        if not options:
            since = clock(min(demand.ready_s.values()))
            raise FlowError(
                f"no contact left for chunk {demand.name}, ready at {since}: all that were planned are full"
            )
        return min(options, key=lambda placed: placed.arrives_s)

    def _lag_s(self, placed: _Placed) -> float:
        """What store and forward adds to the fluid time of a way: every link's delay, and the time on all but the
        slowest."""
        last = placed.shares[-1]
        windows = [self._problem.windows[hop.window] for hop in last.hops]
        on_links_s = [last.size_bytes / window.rate_Bps for window in windows]
        return sum(window.delay_s for window in windows) + sum(on_links_s) - max(on_links_s) + TOUCH_S

    def _earliest(self, demand: Demand) -> tuple[str, ...] | None:
        """The way on which the demand is through first as things stand (Dijkstra over time); None without one."""
        start_s = self._problem.start_s
        queue: list[tuple[float, tuple[str, ...]]] = [
            (max(at_s, start_s), (node,)) for node, at_s in demand.ready_s.items()
        ]
        heapq.heapify(queue)
        seen: set[str] = set()
        while queue:
            at_s, nodes = heapq.heappop(queue)
            if nodes[-1] == demand.destination:
                return nodes
            if nodes[-1] in seen:
                continue
            seen.add(nodes[-1])
            for receiver in self._onward[nodes[-1]]:
                crossed = self._along((nodes[-1], receiver), demand.size_bytes, at_s)
                if receiver not in seen and crossed is not None:
                    heapq.heappush(queue, (crossed[-1].arrives_s, (*nodes, receiver)))
        return None

    def _others(self, demand: Demand) -> list[tuple[str, ...]]:
        return [nodes for nodes in self._every if nodes[0] in demand.ready_s and nodes[-1] == demand.destination]

    def _options(self, demand: Demand, nodes: tuple[str, ...], begins_s: float) -> Iterator[_Placed]:
        """The demand along a way in one piece, and begun on it to be finished on another."""
        not_before_s = self._not_before_s.get(demand.name, 0.0)
        ready_s = max(demand.ready_s[nodes[0]], begins_s, not_before_s, self._problem.start_s)
        crossed = self._along(nodes, demand.size_bytes, ready_s)
        if crossed is not None:
            hops = tuple(crossing.hop for crossing in crossed)
            yield _Placed((Share(demand.name, demand.size_bytes, hops, not_before_s),), crossed[-1].arrives_s)
        link = self._links[nodes[0], nodes[1]]
        at_s = max(ready_s, link.free_s)
        coming = next(link.coming(at_s), None)
        if coming is None:
            return
        begun = _cross(coming, at_s, demand.size_bytes)
        if begun.size_bytes < demand.size_bytes * (1 - 1e-9) and begun.size_bytes > 0:
            yield from self._finished(demand, nodes, begun)

    def _finished(self, demand: Demand, nodes: tuple[str, ...], begun: _Crossing) -> Iterator[_Placed]:
        """What a pass's end cut, finished over another way into the same node once that pass is over."""
        for other in self._others(demand):
            at = len(other) - len(nodes) + 1
            if at < 1 or other[at:] != nodes[1:] or other[at - 1] == nodes[0]:
                continue
            ready_s = max(demand.ready_s[other[0]], self._problem.start_s)
            left = demand.size_bytes - begun.size_bytes
            crossed = self._along(other, left, ready_s, {at - 1: begun.hop.end_s})
            if crossed is not None:
                hops = tuple(crossing.hop for crossing in crossed)
                not_before_s = self._not_before_s.get(demand.name, 0.0)
                first = Share(demand.name, begun.size_bytes, (begun.hop, *hops[at:]), not_before_s)
                yield _Placed((first, Share(demand.name, left, hops, not_before_s)), crossed[-1].arrives_s)

    def _along(
        self, nodes: tuple[str, ...], size_bytes: float, ready_s: float, opens_s: dict[int, float] | None = None
    ) -> list[_Crossing] | None:
        """Store and forward along a way, each link in the first pass that takes all of it; None when a link has none.
        ``opens_s`` is from when on a hop may begin."""
        crossed: list[_Crossing] = []
        at_s = ready_s
        for number, link in enumerate(zip(nodes, nodes[1:], strict=False)):
            found = self._links[link]
            at_s = max(at_s, found.free_s, (opens_s or {}).get(number, at_s))
            crossings = (_cross(one, at_s, size_bytes) for one in found.coming(at_s))
            fitting = next((c for c in crossings if c.size_bytes >= size_bytes), None)
            if fitting is None:
                return None
            crossed.append(fitting)
            at_s = fitting.arrives_s
        return crossed
