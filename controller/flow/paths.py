"""From a flow to ways: which bytes cross which links, cell by cell.

Bytes are followed as parcels through stacks at the nodes: of the heaviest demand the parcel that came last leaves
first. So what is under way goes on, and what a node has of its own waits: the hops of a share are rarely far apart in
time, and links that serve in the order of planned starts keep to the plan. Waiting takes no step, so the work grows
with the hops and not with the cells. Most of a large schedule's time outside the solver is spent here: moves and ways
are places in lists, because a tuple each is what Python's collector of garbage would look through again and again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from controller.flow.cells import Flow
from controller.flow.network import Bools, Ints

NO_WAY = -1

Parcel = tuple[float, int, int, int]
"""Its weight, its supply, its size in units, its way so far (see ``_Stacks``)."""

Waiting = defaultdict[int, list[Parcel]]
"""By node."""


class Delivery(NamedTuple):
    """Units of one supply that arrive at ``node`` in ``cell``. ``moves`` are the crossings that brought them, in order:
    each a place in ``crossings_used``."""

    supply: int
    node: int
    cell: int
    units: int
    moves: list[int]


@dataclass(frozen=True)
class _Moves:
    """What crosses links, as columns: a move is a place in them."""

    sender: list[int]
    receiver: list[int]
    units: list[int]


def crossings_used(flow: Flow) -> Ints:
    """The crossings that carry anything."""
    used: Ints = np.flatnonzero(flow.by_arc[flow.graph.crossed])
    return used


def deliveries(flow: Flow, weights: Sequence[float]) -> Iterator[Delivery]:
    """The whole flow as deliveries, in the order of their cells; ``weights`` are the supplies'.

    A way that returns to a node is cut short there (its bytes wait instead), unless the node's storage is limited.
    """
    graph, crossings = flow.graph, flow.graph.crossings
    used = crossings_used(flow)
    link, cell = crossings.link[used], crossings.cell[used]
    sender, receiver = graph.network.links.sender, graph.network.links.receiver
    units = flow.by_arc[graph.crossed][used]
    moves = _Moves(sender[link].tolist(), receiver[link].tolist(), units.tolist())
    ahead, behind = crossings.tail_cell[used] < cell, crossings.head_cell[used] > cell
    count = graph.cells.count
    early, steady, late, over = (
        _places(cell, kind, count) for kind in (ahead & ~behind, ~ahead & ~behind, behind & ~ahead, ahead & behind)
    )
    released = _by_cell(flow, graph.releases, at_head=True)
    arrived = _by_cell(flow, graph.arrivals, at_head=False)
    first_supply = len(graph.network.names) * count

    stacks = _Stacks(moves)
    found: list[tuple[int, int, Parcel]] = []
    for cell_number in range(count):
        on_time = stacks.carry(early[cell_number], defaultdict(list))
        overdue = stacks.carry(over[cell_number], defaultdict(list))
        stacks.put(on_time)
        for node, arc, size in released[cell_number]:
            supply = int(graph.tail[arc]) - first_supply
            stacks.add(node, (weights[supply], supply, size, NO_WAY))
        stacks.carry(_in_order(moves, steady[cell_number]))
        for node, _, size in arrived[cell_number]:
            found += ((node, cell_number, parcel) for parcel in stacks.take(node, size))
        stacks.put(stacks.carry(late[cell_number], defaultdict(list)))
        stacks.put(overdue)
    limited = np.isfinite(graph.network.storage_bytes).tolist()
    for node, at, (_, supply, size, place) in found:
        yield Delivery(supply, node, at, size, _without_loops(moves, stacks.way(place), limited))


class _Stacks:
    """What waits at each node, the heaviest on top, of equals the last that came.

    A way is a place in two columns: the move that it ends with, and the way before that.
    """

    def __init__(self, moves: _Moves) -> None:
        self._moves = moves
        self._waiting: Waiting = defaultdict(list)
        self._last: list[int] = []
        self._before: list[int] = []

    def add(self, node: int, parcel: Parcel) -> None:
        _insert(self._waiting[node], parcel)

    def take(self, node: int, size: int) -> list[Parcel]:
        """Parcels of so many units together, the last one cut if need be."""
        waiting = self._waiting[node]
        taken: list[Parcel] = []
        while size:
            weight, supply, units, way = waiting.pop()
            if units > size:
                waiting.append((weight, supply, units - size, way))
                units = size
            taken.append((weight, supply, units, way))
            size -= units
        return taken

    def carry(self, moves: Sequence[int], to: Waiting | None = None) -> Waiting:
        """One move after the other: its parcels, off its sender's stack, with the move in their ways, to where they
        wait at the receiver, or at once onto its stack. (The loop that a schedule spends most of its time in.)"""
        senders, receivers, sizes = self._moves.sender, self._moves.receiver, self._moves.units
        last, before = self._last, self._before
        waiting, to = self._waiting, self._waiting if to is None else to
        for move in moves:
            leaving, coming, size = waiting[senders[move]], to[receivers[move]], sizes[move]
            while size:
                weight, supply, units, way = leaving.pop()
                if units > size:
                    leaving.append((weight, supply, units - size, way))
                    units = size
                size -= units
                parcel = weight, supply, units, len(last)
                last.append(move)
                before.append(way)
                if coming and coming[-1][0] > weight:
                    _insert(coming, parcel)
                else:
                    coming.append(parcel)
        return to

    def put(self, arrived: Waiting) -> None:
        """What has waited elsewhere, onto the stacks."""
        for node, parcels in arrived.items():
            for parcel in parcels:
                _insert(self._waiting[node], parcel)

    def way(self, place: int) -> list[int]:
        """The moves of a way, in order."""
        last, before = self._last, self._before
        found: list[int] = []
        while place != NO_WAY:
            found.append(last[place])
            place = before[place]
        found.reverse()
        return found


def _insert(waiting: list[Parcel], parcel: Parcel) -> None:
    if not waiting or waiting[-1][0] <= parcel[0]:
        waiting.append(parcel)
    else:
        waiting.insert(bisect_right(waiting, parcel[0], key=itemgetter(0)), parcel)


def _places(cell: Ints, which: Bools, count: int) -> list[list[int]]:
    """Of some of the moves, their places, by cell."""
    places = np.flatnonzero(which)
    places = places[np.argsort(cell[places], kind="stable")]
    ends = np.searchsorted(cell[places], np.arange(1, count))
    return [part.tolist() for part in np.split(places, ends)]


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


def _in_order(moves: _Moves, places: list[int]) -> list[int]:
    """The moves of one cell, each node's arrivals before its departures. Circles are taken out: they move nothing."""
    out: dict[int, list[int]] = defaultdict(list)
    awaited: dict[int, int] = defaultdict(int)
    for move in places:
        out[moves.sender[move]].append(move)
        awaited[moves.receiver[move]] += 1
    ordered: list[int] = []
    ready = deque(node for node in out if node not in awaited)
    while True:
        while ready:
            leaving = out.pop(ready.popleft(), ())
            ordered += leaving
            for move in leaving:
                receiver = moves.receiver[move]
                left = awaited[receiver] = awaited[receiver] - 1
                if not left:
                    ready.append(receiver)
        if not out:
            return ordered
        _uncircle(moves, out, awaited)
        ready.extend(node for node in out if not awaited[node])


def _uncircle(moves: _Moves, out: dict[int, list[int]], awaited: dict[int, int]) -> None:
    """Take one circle out of moves none of whose senders has all its arrivals."""
    into = {moves.receiver[move]: move for listed in out.values() for move in listed}
    node = next(iter(out))
    seen: set[int] = set()
    while node not in seen:
        seen.add(node)
        node = moves.sender[into[node]]
    circle = [into[node]]
    while moves.sender[circle[-1]] != node:
        circle.append(into[moves.sender[circle[-1]]])
    size = min(moves.units[move] for move in circle)
    for move in circle:
        moves.units[move] -= size
        if not moves.units[move]:
            out[moves.sender[move]].remove(move)
            awaited[moves.receiver[move]] -= 1


def _without_loops(moves: _Moves, way: list[int], limited: list[bool]) -> list[int]:
    """The way, or what is left of it without the circles in it."""
    receiver = moves.receiver
    reached = {receiver[move] for move in way}
    if not way or (len(reached) == len(way) and moves.sender[way[0]] not in reached):
        return way
    kept: list[int] = []
    passed = [moves.sender[way[0]]]
    for move in way:
        node = receiver[move]
        if node in passed and not limited[node]:
            place = passed.index(node)
            del kept[place:], passed[place + 1 :]
        else:
            kept.append(move)
            passed.append(node)
    return kept
