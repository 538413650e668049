"""Whole chunks from a fluid plan: each demand along one way, or, where the end of a contact cuts it, two."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.flow.bottleneck import clock
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import Hop, Schedule, Share

TOUCH_S = 1e-6
"""Windows of a link that are no further apart are one pass, in which only its rate changes."""


def whole(problem: Problem, schedule: Schedule, spare: float = 0.0) -> Schedule:
    """A schedule in which no demand is split, near the fluid one.

    In the order in which the fluid plan begins them, demands are placed where they are through first: on one of their
    own ways, not before it was planned; or, when none of those has room in time, on whatever way is earliest then.
    What the end of a pass would cut on the way's first link may be finished by another way into the same node, which
    has the first part, and goes on from there whole. The end of a pass is left free for ``spare`` times as long as the
    chunk takes that comes last, where there is room elsewhere. FlowError when a demand finds no room.
    """
    return Placing(problem, schedule, spare).schedule()


@dataclass(frozen=True)
class _Crossing:
    """A link crossed: the hop, the bytes that got over before the pass ended, and when they are there."""

    hop: Hop
    size_bytes: float
    arrives_s: float


class _Link:
    """One directed link: its passes, each of windows that touch, and when it is taken."""

    def __init__(self) -> None:
        self._passes: list[list[tuple[int, Window]]] = []
        self._taken_s: list[tuple[float, float]] = []

    def add(self, index: int, window: Window) -> None:
        """Windows come in order of their starts."""
        if self._passes and window.start_s <= self._passes[-1][-1][1].end_s + TOUCH_S:
            self._passes[-1].append((index, window))
        else:
            self._passes.append([(index, window)])

    def take(self, hop: Hop) -> None:
        """The link is taken while something crosses it."""
        insort(self._taken_s, (hop.start_s, hop.end_s))

    def whole(self, at_s: float, size_bytes: float, spare: float) -> _Crossing | None:
        """The first crossing of so many bytes, from ``at_s`` on, in one pass and in a gap between those that were
        taken, ``spare`` times its own duration before the pass's end; None when there is none."""
        while True:
            crossings = (
                _cross(one, at_s, size_bytes, spare * size_bytes / one[-1][1].rate_Bps) for one in self._coming(at_s)
            )
            crossing = next((c for c in crossings if c.size_bytes >= size_bytes), None)
            if crossing is None:
                return None
            after_s = self._taken_until_s(crossing.hop)
            if after_s is None:
                return crossing
            at_s = after_s

    def begun(self, at_s: float, size_bytes: float) -> _Crossing | None:
        """As much as the end of the pass lets through that comes first from ``at_s`` on, behind all that it has taken;
        None when that is nothing, or everything."""
        one = next(self._coming(at_s), None)
        if one is None:
            return None
        inside = [end_s for _, end_s in self._taken_s if one[0][1].start_s < end_s <= one[-1][1].end_s]
        crossing = _cross(one, max([at_s, *inside]), size_bytes)
        return crossing if 0 < crossing.size_bytes < size_bytes * (1 - 1e-9) else None

    def _coming(self, at_s: float) -> Iterator[list[tuple[int, Window]]]:
        """The passes that are not over."""
        return (one for one in self._passes if one[-1][1].end_s > at_s)

    def _taken_until_s(self, hop: Hop) -> float | None:
        """Until when the link is taken by the first that is in the way of a hop; None when nothing is."""
        before = bisect_left(self._taken_s, (hop.end_s, -math.inf))
        ends_s = (end_s for _, end_s in self._taken_s[:before] if end_s > hop.start_s)
        return next(ends_s, None)


def _cross(one: Sequence[tuple[int, Window]], at_s: float, size_bytes: float, spare_s: float = 0.0) -> _Crossing:
    """As much as one pass carries from ``at_s`` until ``spare_s`` before its end. What leaves later than a delay before
    the end does not arrive."""
    closes_s = one[-1][1].end_s - one[-1][1].delay_s - spare_s
    first = min(bisect_right([window.end_s for _, window in one], at_s), len(one) - 1)
    index, window = one[first]
    begins_s = now_s = max(at_s, window.start_s)
    left = size_bytes
    for _, window in one[first:]:
        now_s = max(now_s, window.start_s)
        until_s = min(window.end_s, closes_s)
        done_s = now_s + left / window.rate_Bps
        if done_s <= until_s:
            return _Crossing(Hop(index, begins_s, done_s), size_bytes, done_s + window.delay_s)
        if until_s > now_s:
            left -= (until_s - now_s) * window.rate_Bps
            now_s = until_s
    return _Crossing(Hop(index, begins_s, now_s), size_bytes - left, now_s + window.delay_s)


@dataclass(frozen=True)
class Placed:
    """Where a demand goes: one share, or two of which the second has what a pass's end cut off the first."""

    shares: tuple[Share, ...]
    arrives_s: float


class Placing:
    """Demands on links, one after the other, in the fluid plan's order and on its ways."""

    def __init__(self, problem: Problem, schedule: Schedule, spare: float) -> None:
        self.problem = problem
        self.spare = spare
        self._links: dict[tuple[str, str], _Link] = {}
        for index in sorted(range(len(problem.windows)), key=lambda i: problem.windows[i].start_s):
            window = problem.windows[index]
            link = self._links.setdefault((window.sender, window.receiver), _Link())
            link.add(index, window)
        self._onward: dict[str, list[str]] = defaultdict(list)
        for sender, receiver in sorted(self._links):
            self._onward[sender].append(receiver)
        self._completion_s = schedule.completion_s
        # Ways are nodes, the holder first. By demand: when the plan begins on it, and how much of the demand it has.
        self.own: dict[str, list[tuple[float, float, tuple[str, ...]]]] = defaultdict(list)
        self._not_before_s: dict[str, float] = {}
        for share in schedule.shares:
            if share.hops:
                windows = [problem.windows[hop.window] for hop in share.hops]
                nodes = (windows[0].sender, *(window.receiver for window in windows))
                self.own[share.demand].append((share.hops[0].start_s, share.size_bytes, nodes))
                before_s = self._not_before_s.get(share.demand, math.inf)
                self._not_before_s[share.demand] = min(before_s, share.not_before_s)
        self.every = sorted({nodes for ways in self.own.values() for _, _, nodes in ways})

    def schedule(self) -> Schedule:
        """Everything, in order."""
        shares: list[Share] = []
        completion_s = self.problem.start_s
        for demand in self.in_order():
            if demand.destination in demand.ready_s:
                placed = Placed((Share(demand.name, demand.size_bytes, ()),), demand.ready_s[demand.destination])
            else:
                placed = self._best(demand)
                self._occupy(placed)
            shares += placed.shares
            completion_s = max(completion_s, placed.arrives_s)
        return Schedule(tuple(shares), completion_s)

    def in_order(self) -> list[Demand]:
        """The demands, as they are to be placed."""
        begins_s = {name: min(begin_s for begin_s, _, _ in ways) for name, ways in self.own.items()}
        return sorted(
            self.problem.demands,
            key=lambda d: (begins_s.get(d.name, -math.inf), -d.weight, min(d.ready_s.values()), d.name),
        )

    def _occupy(self, placed: Placed) -> None:
        for hop in {hop for share in placed.shares for hop in share.hops}:  # of two parts the onward hops are the same
            window = self.problem.windows[hop.window]
            self._links[window.sender, window.receiver].take(hop)

    def _best(self, demand: Demand) -> Placed:
        options = self.found(demand, self.spare) or self.found(demand, 0.0)
        if not options:
            since = clock(min(demand.ready_s.values()))
            raise FlowError(
                f"no contact left for chunk {demand.name}, ready at {since}: all that were planned are full"
            )
        return min(options, key=lambda placed: placed.arrives_s)

    def found(self, demand: Demand, spare: float) -> list[Placed]:
        """Where a demand can go, with so much left free at the end of passes."""
        planned = sorted(self.own[demand.name], key=lambda way: (-way[1], way[0], way[2]))
        options = [placed for begin_s, _, nodes in planned for placed in self.options(demand, nodes, begin_s, spare)]
        if not options or min(placed.arrives_s for placed in options) > self._completion_s + self._lag_s(options[0]):
            # A pass has no room for the last chunk that the fluid plan put half into it.
            found = self.earliest(demand, spare)
            options += [] if found is None else self.options(demand, found, 0.0, spare)
        return options

    def _lag_s(self, placed: Placed) -> float:
        """What store and forward adds to the fluid time of a way: every link's delay, and the time on all but the
        slowest."""
        last = placed.shares[-1]
        windows = [self.problem.windows[hop.window] for hop in last.hops]
        on_links_s = [last.size_bytes / window.rate_Bps for window in windows]
        return sum(window.delay_s for window in windows) + sum(on_links_s) - max(on_links_s) + TOUCH_S

    def earliest(self, demand: Demand, spare: float) -> tuple[str, ...] | None:
        """The way on which the demand is through first as things stand (Dijkstra over time); None without one."""
        start_s = max(self.problem.start_s, self._not_before_s.get(demand.name, 0.0))
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
                crossed = self.along((nodes[-1], receiver), demand.size_bytes, at_s, spare)
                if receiver not in seen and crossed is not None:
                    heapq.heappush(queue, (crossed[-1].arrives_s, (*nodes, receiver)))
        return None

    def _others(self, demand: Demand) -> list[tuple[str, ...]]:
        return [nodes for nodes in self.every if nodes[0] in demand.ready_s and nodes[-1] == demand.destination]

    def options(self, demand: Demand, nodes: tuple[str, ...], begins_s: float, spare: float) -> Iterator[Placed]:
        """The demand along a way (nodes, the holder first) in one piece, and begun on it to be finished on another."""
        not_before_s = self._not_before_s.get(demand.name, 0.0)
        ready_s = max(demand.ready_s[nodes[0]], begins_s, not_before_s, self.problem.start_s)
        crossed = self.along(nodes, demand.size_bytes, ready_s, spare)
        if crossed is not None:
            hops = tuple(crossing.hop for crossing in crossed)
            yield Placed((Share(demand.name, demand.size_bytes, hops, not_before_s),), crossed[-1].arrives_s)
        begun = self._links[nodes[0], nodes[1]].begun(ready_s, demand.size_bytes)
        if begun is not None:
            yield from self._finished(demand, nodes, begun, spare)

    def _finished(self, demand: Demand, nodes: tuple[str, ...], begun: _Crossing, spare: float) -> Iterator[Placed]:
        """What a pass's end cut, finished over another way into the same node once that pass is over. From there on it
        goes whole."""
        for other in self._others(demand):
            at = len(other) - len(nodes) + 1
            if at < 1 or other[at:] != nodes[1:] or other[at - 1] == nodes[0]:
                continue
            ready_s = max(demand.ready_s[other[0]], self.problem.start_s)
            left = demand.size_bytes - begun.size_bytes
            finished = self.along(other[: at + 1], left, ready_s, spare, {at - 1: begun.hop.end_s})
            onward = finished and self.along(nodes[1:], demand.size_bytes, finished[-1].arrives_s, spare)
            if finished and onward is not None:
                arrives_s = (onward or finished)[-1].arrives_s
                over, behind = (tuple(crossing.hop for crossing in part) for part in (finished, onward))
                not_before_s = self._not_before_s.get(demand.name, 0.0)
                first = Share(demand.name, begun.size_bytes, (begun.hop, *behind), not_before_s)
                yield Placed((first, Share(demand.name, left, (*over, *behind), not_before_s)), arrives_s)

    def along(
        self,
        nodes: tuple[str, ...],
        size_bytes: float,
        ready_s: float,
        spare: float,
        opens_s: dict[int, float] | None = None,
    ) -> list[_Crossing] | None:
        """Store and forward along a way, each link in the first pass that takes all of it; None when a link has none.
        ``opens_s`` is from when on a hop may begin."""
        crossed: list[_Crossing] = []
        at_s = ready_s
        for number, link in enumerate(zip(nodes, nodes[1:], strict=False)):
            at_s = max(at_s, (opens_s or {}).get(number, at_s))
            fitting = self._links[link].whole(at_s, size_bytes, spare)
            if fitting is None:
                return None
            crossed.append(fitting)
            at_s = fitting.arrives_s
        return crossed
