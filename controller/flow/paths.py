"""From a flow to ways: which bytes cross which links, cell by cell.

Bytes are followed as parcels through stacks at the nodes: of the heaviest demand the parcel that came last leaves
first. So what is under way goes on, and what a node has of its own waits: the hops of a share are rarely far apart in
time, and links that serve in the order of planned starts keep to the plan. Waiting takes no step, so the work grows
with the hops and not with the cells.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from controller.flow.cells import Flow

Way = tuple["Way | None", int]
"""A chain of crossings, the last one first."""

Parcel = tuple[float, int, int, int, "Way | None"]
"""Minus its weight, minus its turn, its supply, its size in units, its way so far."""

Move = tuple[int, int, int, int]
"""Sender, receiver, units, crossing."""


@dataclass(frozen=True)
class Delivery:
    """Units of one supply that arrive at ``node`` in ``cell`` by these crossings (in order)."""

    supply: int
    node: int
    cell: int
    units: int
    crossings: tuple[int, ...]


def deliveries(flow: Flow, weights: Sequence[float]) -> list[Delivery]:
    """The whole flow as deliveries, in the order of their cells; ``weights`` are the supplies'.

    A way that returns to a node is cut short there (its bytes wait instead), unless the node's storage is limited.
    """
    graph, crossings = flow.graph, flow.graph.crossings
    units = flow.by_arc[graph.crossed]
    used = np.flatnonzero(units)
    links = graph.network.links
    rows = zip(
        used.tolist(),
        units[used].tolist(),
        links.sender[crossings.link[used]].tolist(),
        links.receiver[crossings.link[used]].tolist(),
        crossings.cell[used].tolist(),
        crossings.tail_cell[used].tolist(),
        crossings.head_cell[used].tolist(),
        strict=True,
    )
    early, steady, late, over = (defaultdict[int, list[Move]](list) for _ in range(4))
    for crossing, size, sender, receiver, cell, tail_cell, head_cell in rows:
        kinds = {(False, False): steady, (True, False): early, (False, True): late, (True, True): over}
        kinds[tail_cell < cell, head_cell > cell][cell].append((sender, receiver, size, crossing))
    released = _by_cell(flow, graph.releases, at_head=True)
    arrived = _by_cell(flow, graph.arrivals, at_head=False)
    first_supply = len(graph.network.names) * graph.cells.count

    stacks = _Stacks()
    found: list[Delivery] = []
    for cell in range(graph.cells.count):
        on_time = stacks.taken(early[cell])
        overdue = stacks.taken(over[cell])
        stacks.put(on_time)
        for node, arc, size in released[cell]:
            supply = int(graph.tail[arc]) - first_supply
            stacks.add(node, -weights[supply], supply, size, None)
        for move in _in_order(steady[cell]):
            stacks.put(stacks.taken((move,)))
        for node, _, size in arrived[cell]:
            found += (Delivery(p[2], node, cell, p[3], _crossings(p[4])) for p in stacks.take(node, size))
        stacks.put([*stacks.taken(late[cell]), *overdue])
    ends = links.receiver[crossings.link].tolist(), links.sender[crossings.link].tolist()
    limited = np.isfinite(graph.network.storage_bytes).tolist()
    return [_without_loops(one, *ends, limited) for one in found]


class _Stacks:
    """What waits at each node."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[Parcel]] = defaultdict(list)
        self._turn = 0

    def add(self, node: int, key: float, supply: int, size: int, way: Way | None) -> None:
        self._turn += 1
        heapq.heappush(self._waiting[node], (key, -self._turn, supply, size, way))

    def take(self, node: int, size: int) -> list[Parcel]:
        """Parcels of so many units together, the last one cut if need be."""
        waiting = self._waiting[node]
        taken: list[Parcel] = []
        while size:
            key, turn, supply, units, way = heapq.heappop(waiting)
            if units > size:
                heapq.heappush(waiting, (key, turn, supply, units - size, way))
                units = size
            taken.append((key, turn, supply, units, way))
            size -= units
        return taken

    def taken(self, moves: Iterable[Move]) -> list[tuple[Move, Parcel]]:
        """Each move's parcels, off their senders' stacks."""
        return [(move, parcel) for move in moves for parcel in self.take(move[0], move[2])]

    def put(self, moved: Iterable[tuple[Move, Parcel]]) -> None:
        """Where they went."""
        for (_, receiver, _, crossing), (key, _, supply, size, way) in moved:
            self.add(receiver, key, supply, size, (way, crossing))


def _by_cell(flow: Flow, arcs: slice, *, at_head: bool) -> defaultdict[int, list[tuple[int, int, int]]]:
    """Of arcs that carry anything: (node, arc, units) by cell."""
    used = np.flatnonzero(flow.by_arc[arcs]) + arcs.start
    vertex = flow.graph.head[used] if at_head else flow.graph.tail[used]
    node, cell = flow.graph.place(vertex)
    found: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
    rows = zip(node.tolist(), cell.tolist(), used.tolist(), flow.by_arc[used].tolist(), strict=True)
    for at_node, at_cell, arc, size in rows:
        found[at_cell].append((at_node, arc, size))
    return found


def _in_order(moves: list[Move]) -> list[Move]:
    """The moves of one cell, each node's arrivals before its departures. Circles are taken out: they move nothing."""
    out: dict[int, list[Move]] = defaultdict(list)
    awaited: dict[int, int] = defaultdict(int)
    for move in moves:
        out[move[0]].append(move)
        awaited[move[1]] += 1
    ordered: list[Move] = []
    ready = deque(node for node in out if not awaited[node])
    while True:
        while ready:
            node = ready.popleft()
            for move in out.pop(node, ()):
                ordered.append(move)
                awaited[move[1]] -= 1
                if not awaited[move[1]]:
                    ready.append(move[1])
        if not out:
            return ordered
        _uncircle(out, awaited)
        ready.extend(node for node in out if not awaited[node])


def _uncircle(out: dict[int, list[Move]], awaited: dict[int, int]) -> None:
    """Take one circle out of moves none of whose senders has all its arrivals."""
    into = {move[1]: move for moves in out.values() for move in moves}
    node = next(iter(out))
    seen: list[int] = []
    while node not in seen:
        seen.append(node)
        node = into[node][0]
    circle = [into[node]]
    while circle[-1][0] != node:
        circle.append(into[circle[-1][0]])
    size = min(move[2] for move in circle)
    for move in circle:
        out[move[0]].remove(move)
        if move[2] > size:
            out[move[0]].append((move[0], move[1], move[2] - size, move[3]))
        else:
            awaited[move[1]] -= 1


def _crossings(way: Way | None) -> tuple[int, ...]:
    found: list[int] = []
    while way is not None:
        way, crossing = way
        found.append(crossing)
    return tuple(reversed(found))


def _without_loops(one: Delivery, receivers: list[int], origins: list[int], limited: list[bool]) -> Delivery:
    """``receivers`` are the crossings', ``origins`` their senders."""
    if not one.crossings:
        return one
    nodes = [origins[one.crossings[0]], *(receivers[crossing] for crossing in one.crossings)]
    if len(set(nodes)) == len(nodes):
        return one
    kept: list[int] = []
    passed = nodes[:1]
    for crossing, node in zip(one.crossings, nodes[1:], strict=True):
        if node in passed and not limited[node]:
            place = passed.index(node)
            del kept[place:], passed[place + 1 :]
        else:
            kept.append(crossing)
            passed.append(node)
    return Delivery(one.supply, one.node, one.cell, one.units, tuple(kept))
