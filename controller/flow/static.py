"""One maximum flow per time slot, as in Zhu et al., GLOBECOM 2024 (doi 10.1109/GLOBECOM52923.2024.10901682)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from ortools.graph.python import max_flow

from controller.flow.bottleneck import amount, in_the_way, too_late
from testbed.errors import BugError, FlowError
from testbed.flow.problem import Demand, Problem
from testbed.flow.schedule import FlowScheduler, Hop, Schedule, Share

MOST_RELEASES = 64
"""Slots begin at this many of the instants at which demands get ready, and no demand is used before its slot."""
HALVINGS = 20
"""Of the last slot, to find by when its flow is through: to a millionth of it."""
SOURCE, SINK = "source", "sink"

Arc = tuple[str, str, int, int]
"""Tail, head, capacity in bytes, and the window it stands for (-1 for none)."""


class Static(FlowScheduler):
    """In each slot, as much as gets through from where it is to where it belongs inside that slot; what does not stays
    where it was when the slot began. Nothing is moved nearer to a later contact. In a slot no link opens or closes: one
    closes a delay before its pass ends, because what leaves later is lost.

    Demands for several nodes from several others are planned node by node, the heaviest first, on what capacity the
    ones before leave; of demands that are alike the heavier gets its bytes first. Those with a deadline are planned
    before later ones in the same way, and one that is not met is a FlowError.
    """

    name: ClassVar[str] = "static"
    reroutable: ClassVar[bool] = True

    def schedule(self, problem: Problem) -> Schedule:
        """Shares slot by slot. FlowError names a demand that is not through in time, and where its bytes are left."""
        here = [d for d in problem.demands if d.destination in d.ready_s]
        late = [demand for demand in here if demand.ready_s[demand.destination] > demand.deadline_s]
        if late:
            raise _unmet(problem, late)
        shares = [Share(demand.name, demand.size_bytes, ()) for demand in here]
        completion_s = max([problem.start_s, *(demand.ready_s[demand.destination] for demand in here)])
        left = {d.name: d for d in problem.demands if d.destination not in d.ready_s and d.size_bytes > 0}
        instants = _instants(problem)
        for start_s, end_s in zip(instants, instants[1:], strict=False):
            if not left:
                break
            late = [demand for demand in left.values() if demand.deadline_s <= start_s]
            if late:
                raise _unmet(problem, late)
            sent, until_s = _Slot(problem, list(left.values()), start_s, end_s).shares()
            for share in sent:
                rest_bytes = left[share.demand].size_bytes - share.size_bytes
                if rest_bytes > 0:
                    left[share.demand] = replace(left[share.demand], size_bytes=rest_bytes)
                else:
                    del left[share.demand]
            shares += sent
            completion_s = max(completion_s, until_s) if sent else completion_s
        if left:
            raise _unmet(problem, list(left.values()))
        return Schedule(tuple(shares), completion_s)


def _unmet(problem: Problem, left: Sequence[Demand]) -> FlowError:
    """The error for demands of which so much is left in vain."""
    demand = min(left, key=lambda one: one.deadline_s)
    where = ", ".join(sorted(demand.ready_s))
    others = "another is" if len(left) == 2 else f"{len(left) - 1} others are"
    more = f"; {others} not through either" if len(left) > 1 else ""
    return too_late(
        demand,
        problem.end_s,
        in_the_way(problem, demand),
        f": {amount(demand.size_bytes)} of it are left at {where}{more}",
    )


def _instants(problem: Problem) -> list[float]:
    edges_s = [window.start_s for window in problem.windows] + list(problem.closes_s)
    ready_s = sorted({at_s for demand in problem.demands for at_s in demand.ready_s.values()})
    step = -(-len(ready_s) // MOST_RELEASES) or 1
    releases_s = ready_s[step - 1 :: step] + ready_s[-1:]
    deadlines_s = [demand.deadline_s for demand in problem.demands if demand.deadline_s < problem.end_s]
    instants_s = edges_s + releases_s + deadlines_s
    return sorted({problem.start_s, *(at_s for at_s in instants_s if at_s > problem.start_s)})


@dataclass(frozen=True)
class _Path:
    """Bytes of a demand along windows."""

    demand: str
    size_bytes: int
    windows: tuple[int, ...]


class _Slot:
    """The network while nothing changes."""

    def __init__(self, problem: Problem, demands: Sequence[Demand], start_s: float, end_s: float) -> None:
        self._problem = problem
        self._start_s, self._end_s = start_s, end_s
        self._open = [i for i, w in enumerate(problem.windows) if w.start_s <= start_s and problem.closes_s[i] >= end_s]
        self._groups = _groups([
            replace(demand, ready_s=held)
            for demand in demands
            for held in [{node: at_s for node, at_s in demand.ready_s.items() if at_s <= start_s}]
            if held
        ])  # fmt: skip
        self._wanted = sum(_bytes(demand) for group in self._groups for demand in group)
        self._complete = len(self._groups) > 0 and self._wanted == sum(_bytes(demand) for demand in demands)

    def shares(self) -> tuple[list[Share], float]:
        """What gets through, and by when."""
        until_s = self._end_s
        paths = self._paths(until_s)
        if self._complete and sum(path.size_bytes for path in paths) == self._wanted:
            low_s = self._start_s
            for _ in range(HALVINGS):
                middle_s = (low_s + until_s) / 2
                sooner = self._paths(middle_s)
                if sum(path.size_bytes for path in sooner) == self._wanted:
                    until_s, paths = middle_s, sooner
                else:
                    low_s = middle_s
        hops = {i: Hop(i, self._start_s, until_s) for i in self._open}
        sizes = {demand.name: demand.size_bytes for group in self._groups for demand in group}
        shares = [
            Share(p.demand, min(float(p.size_bytes), sizes[p.demand]), tuple(hops[i] for i in p.windows)) for p in paths
        ]
        return shares, until_s

    def _paths(self, until_s: float) -> list[_Path]:
        """The maximum flows of all groups, one after the other."""
        rates = {i: self._problem.windows[i].rate_Bps for i in self._open}
        room = {i: int(rate * (until_s - self._start_s)) for i, rate in rates.items()}
        found: list[_Path] = []
        for group in self._groups:
            for path in _maximum(self._problem, group, room):
                found.append(path)
                for window in path.windows:
                    room[window] -= path.size_bytes
        return found


def _bytes(demand: Demand) -> int:
    return int(np.ceil(demand.size_bytes))


def _groups(demands: Sequence[Demand]) -> list[list[Demand]]:
    """Demands among which bytes are alike: of each deadline all from one node, or each destination's."""
    found: list[list[Demand]] = []
    for deadline_s in sorted({demand.deadline_s for demand in demands}):
        together = [demand for demand in demands if demand.deadline_s == deadline_s]
        if len({tuple(sorted(demand.ready_s)) for demand in together}) == 1 and len(together[0].ready_s) == 1:
            found.append(together)
            continue
        by_end: dict[str, list[Demand]] = defaultdict(list)
        for demand in together:
            by_end[demand.destination].append(demand)
        found += (by_end[end] for end in sorted(by_end, key=lambda end: (-max(d.weight for d in by_end[end]), end)))
    return found


def _maximum(problem: Problem, group: Sequence[Demand], room: dict[int, int]) -> list[_Path]:
    """One maximum flow, as paths. Who a byte belongs to is known where it starts if all end at one node, else where it
    ends."""
    by_end = len({demand.destination for demand in group}) > 1
    alike: dict[str, deque[tuple[str, int]]] = defaultdict(deque)
    arcs: list[Arc] = [
        (window.sender, window.receiver, room[i], i) for i, window in enumerate(problem.windows) if room.get(i, 0) > 0
    ]
    held: dict[str, int] = defaultdict(int)
    wanted: dict[str, int] = defaultdict(int)
    for demand in sorted(group, key=lambda d: (-d.weight, d.name)):
        kind = "holds " + " ".join(sorted(demand.ready_s))
        alike[f"to {demand.destination}" if by_end else kind].append((demand.name, _bytes(demand)))
        held[kind] += _bytes(demand)
        wanted[demand.destination] += _bytes(demand)
    arcs += [(SOURCE, kind, size, -1) for kind, size in held.items()]
    arcs += [(kind, node, size, -1) for kind, size in held.items() for node in kind.split()[1:]]
    arcs += [(node, f"to {node}", size, -1) for node, size in wanted.items()]
    arcs += [(f"to {node}", SINK, size, -1) for node, size in wanted.items()]
    return [
        _Path(name, part, windows)
        for vertices, windows, size in _peeled(arcs, _flows(arcs))
        for name, part in _taken(alike[vertices[-2] if by_end else vertices[1]], size)
    ]


def _flows(arcs: Sequence[Arc]) -> list[int]:
    number: dict[str, int] = {}
    for tail, head, _, _ in arcs:
        number.setdefault(tail, len(number))
        number.setdefault(head, len(number))
    solver = max_flow.SimpleMaxFlow()
    added = solver.add_arcs_with_capacity(
        np.array([number[arc[0]] for arc in arcs], dtype=np.int32),
        np.array([number[arc[1]] for arc in arcs], dtype=np.int32),
        np.array([arc[2] for arc in arcs], dtype=np.int64),
    )
    if solver.solve(number[SOURCE], number[SINK]) != solver.OPTIMAL:
        raise BugError("OR-Tools found no maximum flow")
    return [int(flow) for flow in solver.flows(added)]


def _peeled(arcs: Sequence[Arc], flows: list[int]) -> list[tuple[tuple[str, ...], tuple[int, ...], int]]:
    """A flow as paths from source to sink: vertices, windows and bytes of each. Circles are left out."""
    out: dict[str, list[int]] = defaultdict(list)
    for index, (tail, _, _, _) in enumerate(arcs):
        if flows[index]:
            out[tail].append(index)
    found: list[tuple[tuple[str, ...], tuple[int, ...], int]] = []
    while True:
        came: dict[str, int] = {}
        queue = deque([SOURCE])
        while queue and SINK not in came:
            here = queue.popleft()
            for index in out[here]:
                there = arcs[index][1]
                if flows[index] and there not in came and there != SOURCE:
                    came[there] = index
                    queue.append(there)
        if SINK not in came:
            return found
        path: list[int] = []
        vertex = SINK
        while vertex != SOURCE:
            path.insert(0, came[vertex])
            vertex = arcs[came[vertex]][0]
        size = min(flows[index] for index in path)
        for index in path:
            flows[index] -= size
        vertices = (SOURCE, *(arcs[index][1] for index in path))
        found.append((vertices, tuple(arcs[index][3] for index in path if arcs[index][3] >= 0), size))


def _taken(queue: deque[tuple[str, int]], size: int) -> list[tuple[str, int]]:
    """The first ``size`` bytes of what waits."""
    taken = []
    while size:
        name, there = queue[0]
        part = min(size, there)
        taken.append((name, part))
        size -= part
        if part == there:
            queue.popleft()
        else:
            queue[0] = (name, there - part)
    return taken
