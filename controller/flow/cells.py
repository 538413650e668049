"""Time cut into cells: a problem as a graph that a maximum-flow solver understands.

A node of the problem has one vertex per cell. Crossing a link is an arc within a cell, waiting is an arc to the next
one (time expansion: Ford and Fulkerson, Operations Research 6, 1958). Where time is cut at every edge of every link no
link changes within a cell, so a flow can be sent at constant rates, and the graph is exact. Where that makes too many
cells there are two graphs on a common grid, with exact overlaps of links and cells:
:class:`OptimisticCells` lets everything within a cell happen at once: what does not fit there fits nowhere.
:class:`ExecutableCells` lets bytes wait where a link begins or ends within a cell: what fits there can be sent.

Capacities are integers, in a unit which makes 2^50 of all bytes of a commodity (6e-5 bytes for 66 GB). Each is rounded
down, so a cut can be worth up to as many units more as it has arcs: 1e-9 of the bytes for a million arcs.

The delay of a hop (milliseconds) is far below a cell: it is not in the graph, and the times found are earlier by the
delays of a way. Only what would be lost counts: a link is not used for its last ``delay_s``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from controller.flow.network import Bools, Crossings, Floats, Ints, Links, Network
from testbed.errors import BugError
from testbed.flow.problem import Demand

UNITS_EXPONENT = 50
"""All bytes are about 2^50 units: room for 2^13 arcs that each hold them all at one vertex, in 63 bits."""

GRADE = 2.0
"""How much longer a cell is than the next one towards a fine end of a grid."""

MOST_STEPS = 5
"""Cells from a fine end in which they get longer; all beyond are of one length."""


@dataclass(frozen=True)
class Supply:
    """Bytes that may be sent from any of the nodes that have them, from its instant on; no more than these in all."""

    size_bytes: float
    ready_s: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Sink:
    """Bytes that must arrive at a node, until an instant."""

    size_bytes: float
    node: int
    deadline_s: float


@dataclass(frozen=True)
class Commodity:
    """Demands that are one flow: any of the supplies' bytes may fill any sink."""

    demands: tuple[Demand, ...]
    supplies: tuple[Supply, ...]
    sinks: tuple[Sink, ...]

    @cached_property
    def size_bytes(self) -> float:
        """Of all demands."""
        return sum(demand.size_bytes for demand in self.demands)


def ready_key(network: Network, demand: Demand) -> tuple[tuple[int, float], ...]:
    """Where and when a demand is ready, in numbers and in order; what was ready before the start is so at the start."""
    return tuple(sorted((network.number[n], max(at_s, network.start_s)) for n, at_s in demand.ready_s.items()))


def pooled(network: Network, demands: Sequence[Demand]) -> Commodity:
    """Demands as one commodity: one supply for all that are ready alike, one sink for all that go to one node by one
    instant. Where both are several that is a relaxation: a byte may then stand in for another demand's."""
    supplies: dict[tuple[tuple[int, float], ...], float] = {}
    sinks: dict[tuple[int, float], float] = {}
    for demand in demands:
        ready_s = ready_key(network, demand)
        sink = network.number[demand.destination], demand.deadline_s
        supplies[ready_s] = supplies.get(ready_s, 0.0) + demand.size_bytes
        sinks[sink] = sinks.get(sink, 0.0) + demand.size_bytes
    return Commodity(
        tuple(demands),
        tuple(Supply(size_bytes, ready_s) for ready_s, size_bytes in supplies.items()),
        tuple(Sink(size_bytes, *sink) for sink, size_bytes in sinks.items()),
    )


def useful_links(network: Network, commodity: Commodity) -> Bools:
    """Which links some byte of the commodity may need: those on ways to a target, whenever they are up."""
    links = network.links
    origins = {node for supply in commodity.supplies for node, _ in supply.ready_s}
    targets = {sink.node for sink in commodity.sinks}
    keep = np.ones(len(links), dtype=bool)
    if len(targets) == 1:
        keep &= links.sender != next(iter(targets))
    if len(origins) == 1:
        keep &= links.receiver != next(iter(origins))
    tail, head = links.sender[keep], links.receiver[keep]
    from_origin = _reached(len(network.names), origins, tail, head)
    to_target = _reached(len(network.names), targets, head, tail)
    return keep & from_origin[links.sender] & to_target[links.receiver]


def _reached(count: int, begin: set[int], tail: Ints, head: Ints) -> Bools:
    reached = np.zeros(count, dtype=bool)
    reached[list(begin)] = True
    while True:
        more = head[reached[tail] & ~reached[head]]
        if not len(more):
            return reached
        reached[more] = True


class OptimisticCells:
    """All that is in a cell happens at once: a byte may cross links in any order, and what is released in a cell is
    there from its beginning. Exact where no link begins or ends within a cell, and nothing is released there."""

    def __init__(self, edges_s: Floats) -> None:
        self.edges_s = edges_s

    @property
    def count(self) -> int:
        """How many cells."""
        return len(self.edges_s) - 1

    def crossings(self, links: Links, is_last: Bools, limited: Bools) -> Crossings:
        """Of every link in every cell that it is up in."""
        edges_s = self.edges_s
        first = np.clip(np.searchsorted(edges_s, links.start_s, "right") - 1, 0, self.count)
        last = np.clip(np.searchsorted(edges_s, links.end_s, "left") - 1, -1, self.count - 1)
        count = np.maximum(last - first + 1, 0)
        link = np.repeat(np.arange(len(links)), count)
        cell = np.arange(len(link)) - np.repeat(np.cumsum(count) - count, count) + first[link]
        start_s = np.maximum(links.start_s[link], edges_s[cell])
        end_s = np.minimum(links.end_s[link], edges_s[cell + 1])
        up = end_s > start_s
        link, cell, start_s, end_s = link[up], cell[up], start_s[up], end_s[up]
        return Crossings(link, cell, cell, cell, start_s, end_s, links.rate_Bps[link] * (end_s - start_s))

    def release_cell(self, at_s: float) -> int:
        """The first cell in which bytes that are ready at an instant can be sent."""
        return min(max(int(np.searchsorted(self.edges_s, at_s, "right")) - 1, 0), self.count - 1)

    def last_cell(self, deadline_s: float) -> int:
        """The last cell that counts for a deadline; -1 where none does."""
        return min(int(np.searchsorted(self.edges_s, deadline_s, "left")) - 1, self.count - 1)


class ExecutableCells(OptimisticCells):
    """All that is in a cell happens at a constant rate, or waits for the next one.

    Over a link that begins within a cell bytes arrive later than at a constant rate: they go on in the next cell. Over
    one that ends there they leave earlier: they have been there since the cell before. So no node ever sends what it
    has not got yet. What arrives at a node that sends nothing on need not wait. A node with limited storage does
    without such crossings, because they hold bytes within a cell. The first cell is empty: what was there before the
    first edge.
    """

    def __init__(self, edges_s: Floats) -> None:
        super().__init__(np.concatenate([edges_s[:1], edges_s]))

    def crossings(self, links: Links, is_last: Bools, limited: Bools) -> Crossings:
        found = super().crossings(links, is_last, limited)
        receiver = links.receiver[found.link]
        begins = found.start_s > self.edges_s[found.cell]
        ends = found.end_s < self.edges_s[found.cell + 1]
        head_cell = found.cell + (begins & ~is_last[receiver])
        barred = (limited[links.sender[found.link]] | limited[receiver]) & (begins | ends) | (head_cell >= self.count)
        return replace(
            found,
            tail_cell=found.cell - ends,
            head_cell=np.minimum(head_cell, self.count - 1),
            size_bytes=np.where(barred, 0.0, found.size_bytes),
        )

    def release_cell(self, at_s: float) -> int:
        return int(np.searchsorted(self.edges_s, at_s, "left"))

    def last_cell(self, deadline_s: float) -> int:
        return min(int(np.searchsorted(self.edges_s, deadline_s, "right")) - 2, self.count - 1)


Reading = Callable[[Floats], OptimisticCells]


def event_edges_s(network: Network, commodity: Commodity, until_s: float) -> Floats:
    """Every instant up to ``until_s`` at which a link, a release or a deadline changes anything."""
    releases_s = [at_s for supply in commodity.supplies for _, at_s in supply.ready_s]
    deadlines_s = [sink.deadline_s for sink in commodity.sinks]
    events_s = np.concatenate([network.links.start_s, network.links.end_s, releases_s, deadlines_s])
    inside_s = events_s[(events_s > network.start_s) & (events_s < until_s)]
    last_s = max(until_s, network.start_s)
    # A byte that is ready at the very end may still be where it should be, but cross no link: a cell without length.
    again_s = [last_s] if last_s in releases_s else []
    return np.concatenate([[network.start_s], np.unique(inside_s), [last_s], again_s])


def grid_edges_s(network: Network, until_s: float, count: int) -> Floats:
    """``count`` cells of one length up to ``until_s``."""
    return np.linspace(network.start_s, max(until_s, network.start_s), count + 1)


def late_edges_s(network: Network, until_s: float, count: int) -> Floats:
    """``count`` cells that get shorter towards ``until_s``: that all in a cell happens at once brings bytes forward
    least where the cells before the end are short."""
    return _graded_edges_s(network, until_s, np.arange(count)[::-1])


def outer_edges_s(network: Network, until_s: float, count: int) -> Floats:
    """``count`` cells that get shorter towards both ends: what waits for a next cell leaves the links behind it idle
    in the first, and is too late in the last. As good as several times as many cells of one length."""
    place = np.arange(count)
    return _graded_edges_s(network, until_s, np.minimum(place, place[::-1]))


def _graded_edges_s(network: Network, until_s: float, steps: Ints) -> Floats:
    """``steps``: of each cell, how many others are between it and a fine end."""
    sizes = GRADE ** np.minimum(steps, MOST_STEPS).astype(np.float64)
    end_s = max(until_s, network.start_s)
    inside_s = network.start_s + np.cumsum(sizes[:-1]) / sizes.sum() * (end_s - network.start_s)
    edges_s: Floats = np.concatenate([[network.start_s], inside_s, [end_s]])
    return edges_s


@dataclass(frozen=True)
class Graph:
    """A flow network in integers: arcs as columns ``tail``, ``head``, ``capacity`` (units of ``unit_bytes``).

    ``total`` units are to go from vertex ``source`` to vertex ``sink``. Arcs come in this order: supplies, releases,
    waits, crossings, arrivals, sinks; the slices say where.
    """

    network: Network
    commodity: Commodity
    cells: OptimisticCells
    crossings: Crossings
    tail: Ints
    head: Ints
    capacity: Ints
    source: int
    sink: int
    total: int
    unit_bytes: float
    releases: slice
    waits: slice
    crossed: slice
    arrivals: slice
    terminal: Bools
    """Nodes at which bytes only arrive."""

    def vertex(self, node: Ints, cell: Ints) -> Ints:
        """Of nodes in cells."""
        return cell * len(self.network.names) + node

    def place(self, vertex: Ints) -> tuple[Ints, Ints]:
        """Node and cell of vertices that have them."""
        return vertex % len(self.network.names), vertex // len(self.network.names)


@dataclass(frozen=True)
class Flow:
    """A maximum flow in units, by arc, and its two extreme minimum cuts: who is on the source's side of each."""

    graph: Graph
    value: int
    by_arc: Ints
    near_source: Bools
    near_sink: Bools

    @property
    def by_s(self) -> float:
        """Until when."""
        return float(self.graph.cells.edges_s[-1])

    @property
    def is_through(self) -> bool:
        """Whether all bytes are carried, but for what rounding can cost (a unit an arc)."""
        return self.value >= self.graph.total - len(self.graph.tail)

    @property
    def missing_bytes(self) -> float:
        """What is not carried."""
        return (self.graph.total - self.value) * self.graph.unit_bytes


def expand(network: Network, commodity: Commodity, cells: OptimisticCells) -> Graph:
    """The graph of one commodity over the cells. Demands are vertices of their own, so that no more than their size
    leaves in all. What a node holds of its own does not pass its wait arcs where these are limited."""
    nodes, count = len(network.names), cells.count
    unit_bytes = 2.0 ** (math.ceil(math.log2(max(commodity.size_bytes, 1e-6))) - UNITS_EXPONENT)
    sizes = [math.ceil(supply.size_bytes / unit_bytes) for supply in commodity.supplies]
    total = sum(sizes)
    limited = np.isfinite(network.storage_bytes)
    terminal = np.zeros(nodes, dtype=bool)
    terminal[[sink.node for sink in commodity.sinks]] = True
    terminal[network.links.sender] = False
    crossings = cells.crossings(network.links, terminal, limited)
    first_supply = nodes * count
    first_sink = first_supply + len(sizes)
    source = first_sink + len(commodity.sinks)

    supply_tail: list[int] = []
    supply_head: list[int] = []
    supply_units: list[int] = []
    instants_s = {at_s for supply in commodity.supplies for _, at_s in supply.ready_s}
    release_cell = {at_s: cells.release_cell(at_s) if at_s <= cells.edges_s[-1] else count for at_s in instants_s}
    for number, (supply, size) in enumerate(zip(commodity.supplies, sizes, strict=True)):
        for node, at_s in supply.ready_s:
            from_cell = release_cell[at_s]
            until_cell = count if limited[node] else min(from_cell + 1, count)
            for cell in range(from_cell, until_cell):
                supply_tail.append(first_supply + number)
                supply_head.append(cell * nodes + node)
                supply_units.append(size)
    sink_tail: list[int] = []
    sink_head: list[int] = []
    for number, sink in enumerate(commodity.sinks):
        open_cells = range(cells.last_cell(sink.deadline_s) + 1)
        sink_tail += [cell * nodes + sink.node for cell in open_cells]
        sink_head += [first_sink + number] * len(open_cells)

    waiting = np.flatnonzero(~terminal)
    wait_tail = (np.arange(count - 1)[:, None] * nodes + waiting).ravel()
    wait_units = np.minimum(network.storage_bytes[waiting] / unit_bytes, total).astype(np.int64)
    sink_units = [min(math.ceil(sink.size_bytes / unit_bytes), total) for sink in commodity.sinks]
    columns = [
        (np.full(len(sizes), source), first_supply + np.arange(len(sizes)), np.array(sizes)),
        (np.array(supply_tail), np.array(supply_head), np.array(supply_units)),
        (wait_tail, wait_tail + nodes, np.tile(wait_units, max(count - 1, 0))),
        (
            crossings.tail_cell * nodes + network.links.sender[crossings.link],
            crossings.head_cell * nodes + network.links.receiver[crossings.link],
            np.minimum(crossings.size_bytes / unit_bytes, total).astype(np.int64),
        ),
        (np.array(sink_tail), np.array(sink_head), np.full(len(sink_tail), total)),
        (first_sink + np.arange(len(sink_units)), np.full(len(sink_units), source + 1), np.array(sink_units)),
    ]
    ends = np.cumsum([len(column[0]) for column in columns]).tolist()
    tail, head, capacity = (np.concatenate(parts).astype(np.int64) for parts in zip(*columns, strict=True))
    releases, waits, crossed, arrivals, _ = (slice(*pair) for pair in zip(ends, ends[1:], strict=False))
    return Graph(
        network=network,
        commodity=commodity,
        cells=cells,
        crossings=crossings,
        tail=tail,
        head=head,
        capacity=capacity,
        source=source,
        sink=source + 1,
        total=total,
        unit_bytes=unit_bytes,
        releases=releases,
        waits=waits,
        crossed=crossed,
        arrivals=arrivals,
        terminal=terminal,
    )


def maximum_flow(graph: Graph) -> Flow:
    """By push-relabel (OR-Tools' ``SimpleMaxFlow``); the same graph gives the same flow."""
    from ortools.graph.python import max_flow

    solver = max_flow.SimpleMaxFlow()
    used = np.flatnonzero(graph.capacity)
    if len(used):
        ends = graph.tail[used].astype(np.int32), graph.head[used].astype(np.int32)
        arcs = solver.add_arcs_with_capacity(*ends, graph.capacity[used])
    by_arc = np.zeros(len(graph.tail), dtype=np.int64)
    near_source, near_sink = np.zeros(graph.sink + 1, dtype=bool), np.ones(graph.sink + 1, dtype=bool)
    near_source[graph.source], near_sink[graph.sink] = True, False
    if len(used):
        status = solver.solve(graph.source, graph.sink)
        if status != solver.OPTIMAL:
            raise BugError(f"no maximum flow of {len(used)} arcs: {status}")
        by_arc[used] = solver.flows(arcs)
        near_source[solver.get_source_side_min_cut()] = True
        near_sink[solver.get_sink_side_min_cut()] = False
    return Flow(graph, int(by_arc[graph.head == graph.sink].sum()), by_arc, near_source, near_sink)
