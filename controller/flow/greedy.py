"""First contact, no sharing: what a constellation does that has no flow planner."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from controller.flow.bottleneck import amount, clock, in_the_way, too_late
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import FlowScheduler, Hop, Schedule, Share

TOUCH_S = 1e-6
"""Windows of a link that are no further apart are one contact."""
DUST = 1e-9
"""Of a demand: less is what rounding left."""


class Greedy(FlowScheduler):
    """One contact at a time: the first there is. Everything that can goes through it, in the order in which it gets
    there, though another may be open beside it; what is not through when it ends goes through the one that is first
    then. What cannot get anywhere through it does not wait for it.

    A contact is a link while it is up, unless it is up from now to the horizon: such links, at whatever rates, are used
    by everybody at any time. A hop begins when all bytes of the one before have arrived (store and forward). Of those
    that get to a contact at the same time the heaviest goes first; deadlines change nothing, but one that is not met is
    a FlowError.
    """

    name: ClassVar[str] = "greedy"

    def schedule(self, problem: Problem) -> Schedule:
        """Shares in the order in which they were decided on. FlowError names a demand that finds no contact, or that is
        later than its deadline, and what is in the way."""
        queue = _Queue(problem)
        here = [d for d in problem.demands if d.destination in d.ready_s]
        shares = [Share(demand.name, demand.size_bytes, ()) for demand in here]
        arrived_s = {demand.name: demand.ready_s[demand.destination] for demand in here}
        left = [
            _Rest(demand, problem.start_s)
            for demand in problem.demands
            if demand.destination not in demand.ready_s and demand.size_bytes > 0
        ]
        while left:
            sent, left = queue.through(queue.first_contact(left), left)
            shares += sent
        for share in shares:
            if share.hops:
                at_s = share.hops[-1].end_s + problem.windows[share.hops[-1].window].delay_s
                arrived_s[share.demand] = max(arrived_s.get(share.demand, at_s), at_s)
        for demand in problem.demands:
            at_s = arrived_s.get(demand.name, problem.start_s)
            if at_s > demand.deadline_s + TOUCH_S:
                raise too_late(
                    demand, problem.end_s, in_the_way(problem, demand), f": by first contacts it is at {clock(at_s)}"
                )
        return Schedule(tuple(shares), max([queue.completion_s, *arrived_s.values()]))


@dataclass(frozen=True)
class _Rest:
    """What is left of a demand (``demand.size_bytes``), and from when on it may be sent."""

    demand: Demand
    from_s: float


@dataclass(frozen=True)
class _Contact:
    """Windows that touch, of the one link that does not last, or of several where it takes more than one; and when the
    first of these links ends."""

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
    """Links and when each is taken."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._out: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index in sorted(range(len(problem.windows)), key=lambda i: problem.windows[i].start_s):
            window = problem.windows[index]
            self._out[window.sender][window.receiver].append(index)
        self._taken: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        self._lasting = frozenset(
            index
            for listed in (listed for by_receiver in self._out.values() for listed in by_receiver.values())
            for contact in [self._contact(listed[0])]
            if problem.windows[listed[0]].start_s <= problem.start_s + TOUCH_S
            and contact.end_s >= problem.end_s - TOUCH_S
            for index in contact.windows
        )
        self._every = frozenset(range(len(problem.windows)))
        self.completion_s = problem.start_s

    def first_contact(self, rests: Sequence[_Rest]) -> _Contact:
        """The contact over which any byte of these would arrive first."""
        ways = []
        for rest in rests:
            found = self._first_way(rest, self._every)
            if found is None:
                raise FlowError(
                    f"{rest.demand.name} finds no contact towards {rest.demand.destination} after {clock(rest.from_s)} "
                    f"of mission time: {amount(rest.demand.size_bytes)} of it are left",
                    field="flow",
                    found=in_the_way(self._problem, rest.demand),
                    allowed="more or longer windows, or fewer bytes",
                )
            ways.append(found)
        _, way = min(ways)
        links = [self._contact(index) for index in way if index not in self._lasting]
        ends_s = min((link.end_s for link in links), default=self._problem.end_s)
        return _Contact(frozenset(index for link in links for index in link.windows), ends_s)

    def _contact(self, first: int) -> _Contact:
        begun = self._problem.windows[first]
        windows, end_s = {first}, begun.end_s
        for index in self._out[begun.sender][begun.receiver]:
            window = self._problem.windows[index]
            if begun.start_s <= window.start_s <= end_s + TOUCH_S and window.end_s > end_s:
                windows.add(index)
                end_s = window.end_s
        return _Contact(frozenset(windows), end_s)

    def through(self, contact: _Contact, rests: Sequence[_Rest]) -> tuple[list[Share], list[_Rest]]:
        """Shares of what gets through a contact, and what is left. What queued for it in vain goes on from its end on;
        what it is no use to does not wait for it."""
        shares: list[Share] = []
        left: list[_Rest] = []
        usable = self._lasting | contact.windows
        ways = [(self._first_way(rest, usable), rest) for rest in rests]
        left += [rest for way, rest in ways if way is None]
        going = [(way, rest) for way, rest in ways if way is not None]
        for (_, way), rest in sorted(going, key=lambda one: (one[0][0], -one[1].demand.weight, one[1].demand.name)):
            sent, rest_bytes = self._sent(rest, way, usable)
            shares += sent
            if rest_bytes > 0:
                left.append(_Rest(replace(rest.demand, size_bytes=rest_bytes), max(rest.from_s, contact.end_s)))
        return shares, left

    def _sent(self, rest: _Rest, way: tuple[int, ...], usable: frozenset[int]) -> tuple[list[Share], float]:
        """Shares of one demand on a way and, when its windows are over, on those that follow; and what is left."""
        shares: list[Share] = []
        dust_bytes = DUST * rest.demand.size_bytes
        rest_bytes = rest.demand.size_bytes
        while rest_bytes > dust_bytes:
            push = self._push(rest, way, rest_bytes)
            if push.size_bytes <= dust_bytes:
                further = self._first_way(replace(rest, from_s=max(rest.from_s, push.ends_s)), usable)
                if further is None or further[1] == way:
                    return shares, rest_bytes
                way = further[1]
                continue
            shares.append(Share(rest.demand.name, push.size_bytes, push.hops, rest.from_s))
            rest_bytes -= push.size_bytes
            for hop in push.hops:
                window = self._problem.windows[hop.window]
                insort(self._taken[window.sender, window.receiver], (hop.start_s, hop.end_s))
            self.completion_s = max(self.completion_s, push.arrives_s)
        return shares, 0.0

    def _first_way(self, rest: _Rest, usable: frozenset[int]) -> tuple[float, tuple[int, ...]] | None:
        """Windows on which a first byte, alone, would arrive earliest, and when (Dijkstra over time)."""
        queue: list[tuple[float, str, tuple[int, ...]]] = [
            (max(at_s, rest.from_s), node, ()) for node, at_s in sorted(rest.demand.ready_s.items())
        ]
        heapq.heapify(queue)
        seen: set[str] = set()
        while queue:
            at_s, node, way = heapq.heappop(queue)
            if node == rest.demand.destination:
                return at_s, way
            if node in seen:
                continue
            seen.add(node)
            for receiver, listed in sorted(self._out[node].items()):
                closes_s = self._problem.closes_s
                coming = (
                    i for i in listed if i in usable and closes_s[i] > max(at_s, self._problem.windows[i].start_s)
                )
                index = next(coming, None)
                if index is not None and receiver not in seen:
                    window = self._problem.windows[index]
                    arrives_s = max(at_s, window.start_s) + window.delay_s
                    heapq.heappush(queue, (arrives_s, receiver, (*way, index)))
        return None

    def _push(self, rest: _Rest, way: Sequence[int], size_bytes: float) -> _Push:
        """As many bytes as get through on every hop before its window ends."""
        windows = [self._problem.windows[index] for index in way]
        dust_bytes = DUST * rest.demand.size_bytes
        limit_s = self._problem.closes_s[way[0]]
        while size_bytes > dust_bytes:
            hops: list[Hop] = []
            at_s = max(rest.demand.ready_s[windows[0].sender], rest.from_s)
            for index, window in zip(way, windows, strict=True):
                closes_s = self._problem.closes_s[index]
                begins_s, room_bytes = self._free(window, closes_s, at_s, size_bytes)
                if room_bytes < size_bytes * (1 - DUST):
                    size_bytes, limit_s = room_bytes, closes_s
                    break
                ends_s = begins_s + size_bytes / window.rate_Bps
                hops.append(Hop(index, begins_s, min(ends_s, closes_s)))
                at_s = ends_s + window.delay_s
            else:
                return _Push(tuple(hops), size_bytes, at_s, limit_s)
        return _Push((), 0.0, rest.from_s, limit_s)

    def _free(self, window: Window, closes_s: float, at_s: float, size_bytes: float) -> tuple[float, float]:
        """From when on, at or after an instant, a window is free for so many bytes, and for how many it is: fewer than
        these where it closes first."""
        begins_s = max(at_s, window.start_s)
        for start_s, end_s in self._taken[window.sender, window.receiver]:
            if begins_s + size_bytes / window.rate_Bps <= start_s:
                break
            begins_s = max(begins_s, end_s)
        return begins_s, max(0.0, closes_s - begins_s) * window.rate_Bps
