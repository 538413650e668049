"""First contact, no sharing: what a constellation does that has no flow planner."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from controller.flow.bottleneck import clock
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem
from testbed.flow.schedule import FlowScheduler, Hop, Schedule, Share

TOUCH_S = 1e-6
"""Windows of a link that are no further apart are one contact."""
DUST = 1e-9
"""Of a demand: less is what rounding left."""


class Greedy(FlowScheduler):
    """One contact at a time: the first there is. Everything goes through it, in the order in which it gets there,
    though another may be open beside it; what is not through when it ends goes through the one that is first then.

    A contact is a link that does not last to the horizon, while it is up; links that do are used by everybody at any
    time. A hop begins when all bytes of the one before have arrived (store and forward).
    """

    name: ClassVar[str] = "greedy"

    def schedule(self, problem: Problem) -> Schedule:
        queue = _Queue(problem)
        here = [d for d in problem.demands if d.destination in d.ready_s]
        shares = [Share(demand.name, demand.size_bytes, ()) for demand in here]
        arrived_s = [demand.ready_s[demand.destination] for demand in here]
        left = [d for d in problem.demands if d.destination not in d.ready_s and d.size_bytes > 0]
        from_s = problem.start_s
        while left:
            contact = queue.first_contact(left, from_s)
            if contact is None:
                missing = sum(demand.size_bytes for demand in left) / 1e6
                raise FlowError(
                    f"{missing:,.3f} MB of {len(left)} transfers find no contact after {clock(from_s)} (mission time)"
                )
            sent, left = queue.through(contact, left, from_s)
            shares += sent
            from_s = contact.end_s
        return Schedule(tuple(shares), max([queue.completion_s, *arrived_s]))


@dataclass(frozen=True)
class _Contact:
    """A link's windows that touch, and when the last of them ends."""

    windows: frozenset[int]
    end_s: float


@dataclass(frozen=True)
class _Push:
    """What of a demand gets through on a way: hops, bytes, the arrival; and when the window ends that let no more."""

    hops: tuple[Hop, ...]
    size_bytes: float
    arrives_s: float
    ends_s: float


class _Queue:
    """Links and from when on each is free."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._out: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index in sorted(range(len(problem.windows)), key=lambda i: problem.windows[i].start_s):
            window = problem.windows[index]
            self._out[window.sender][window.receiver].append(index)
        self._free_s: dict[tuple[str, str], float] = defaultdict(lambda: problem.start_s)
        lasting = (i for i, window in enumerate(problem.windows) if window.end_s >= problem.end_s - TOUCH_S)
        self._lasting = frozenset(lasting)
        self._every = frozenset(range(len(problem.windows)))
        self.completion_s = problem.start_s

    def first_contact(self, demands: Sequence[Demand], from_s: float) -> _Contact | None:
        """The contact over which any byte of these would arrive first."""
        ways = [way for demand in demands for way in [self._first_way(demand, from_s, self._every)] if way is not None]
        if not ways:
            return None
        _, way = min(ways)
        fleeting = [index for index in way if index not in self._lasting]
        return self._contact(fleeting[0]) if fleeting else _Contact(frozenset(), self._problem.end_s)

    def _contact(self, first: int) -> _Contact:
        begun = self._problem.windows[first]
        windows, end_s = {first}, begun.end_s
        for index in self._out[begun.sender][begun.receiver]:
            window = self._problem.windows[index]
            if end_s - TOUCH_S <= window.start_s <= end_s + TOUCH_S:
                windows.add(index)
                end_s = window.end_s
        return _Contact(frozenset(windows), end_s)

    def through(self, contact: _Contact, demands: Sequence[Demand], from_s: float) -> tuple[list[Share], list[Demand]]:
        """Shares of what gets through a contact, and what is left."""
        shares: list[Share] = []
        left: list[Demand] = []
        usable = self._lasting | contact.windows
        ways = [(self._first_way(demand, from_s, usable), demand) for demand in demands]
        going = sorted(((way, d) for way, d in ways if way is not None), key=lambda one: (one[0][0], one[1].name))
        left += [demand for way, demand in ways if way is None]
        for (_, way), demand in going:
            rest = demand.size_bytes
            while rest > DUST * demand.size_bytes:
                push = self._push(demand, way, rest, from_s)
                if push.size_bytes <= DUST * demand.size_bytes:
                    further = self._first_way(demand, max(from_s, push.ends_s), usable)
                    if further is None or further[1] == way:
                        break
                    way = further[1]
                    continue
                shares.append(Share(demand.name, push.size_bytes, push.hops, from_s))
                rest -= push.size_bytes
                for hop in push.hops:
                    window = self._problem.windows[hop.window]
                    self._free_s[window.sender, window.receiver] = hop.end_s
                self.completion_s = max(self.completion_s, push.arrives_s)
            if rest > DUST * demand.size_bytes:
                left.append(replace(demand, size_bytes=rest))
        return shares, left

    def _first_way(self, demand: Demand, from_s: float, usable: frozenset[int]) -> tuple[float, tuple[int, ...]] | None:
        """Windows on which a first byte, alone, would arrive earliest, and when (Dijkstra over time)."""
        queue: list[tuple[float, str, tuple[int, ...]]] = [
            (max(at_s, from_s), node, ()) for node, at_s in sorted(demand.ready_s.items())
        ]
        heapq.heapify(queue)
        seen: set[str] = set()
        while queue:
            at_s, node, way = heapq.heappop(queue)
            if node == demand.destination:
                return at_s, way
            if node in seen:
                continue
            seen.add(node)
            for receiver, listed in sorted(self._out[node].items()):
                coming = (i for i in listed if i in usable and self._problem.windows[i].end_s > at_s)
                index = next(coming, None)
                if index is not None and receiver not in seen:
                    window = self._problem.windows[index]
                    arrives_s = max(at_s, window.start_s) + window.delay_s
                    heapq.heappush(queue, (arrives_s, receiver, (*way, index)))
        return None

    def _push(self, demand: Demand, way: Sequence[int], size_bytes: float, from_s: float) -> _Push:
        """As many bytes as get through on every hop before its window ends."""
        windows = [self._problem.windows[index] for index in way]
        limit_s = windows[0].end_s
        while True:
            hops: list[Hop] = []
            at_s = max(demand.ready_s[windows[0].sender], from_s)
            for index, window in zip(way, windows, strict=True):
                begins_s = max(at_s, window.start_s, self._free_s[window.sender, window.receiver])
                room = max(0.0, window.end_s - begins_s) * window.rate_Bps
                if room < size_bytes * (1 - DUST):
                    size_bytes, limit_s = room, window.end_s
                    break
                ends_s = begins_s + size_bytes / window.rate_Bps
                hops.append(Hop(index, begins_s, min(ends_s, window.end_s)))
                at_s = ends_s + window.delay_s
            else:
                return _Push(tuple(hops), size_bytes, at_s, limit_s if size_bytes < demand.size_bytes else from_s)
            if size_bytes <= DUST * demand.size_bytes:
                return _Push((), 0.0, at_s, limit_s)
