"""Quickest flows: what a schedule of the default scheduler costs, against networkx' bisection, and how good it is.

The instances: satellites with grids of inter-satellite links, each with bytes for one ground server, that cities hear
at 200 Mbit/s each and pass on at 400 Mbit/s together (their backhaul).
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import networkx as nx

from controller.flow.cells import Graph, OptimisticCells, event_edges_s, expand, grid_edges_s, pooled
from controller.flow.expanded import Solution, TimeExpanded
from controller.flow.network import network_of
from controller.flow.replay import replay
from testbed.flow.problem import Demand, Problem, Window
from testbed.orbit.contacts import find_contacts
from testbed.orbit.orbits import open_orbits
from testbed.orbit.topology import PlusGrid
from tests.bench.orbit import STATIONS, peak_mib
from tests.bench.row import Row

EPOCH = datetime(2025, 1, 1, tzinfo=timezone.utc)
IRIDIUM = "S:780:86.4:66/6/1"
STARLINK = "D:550:53:1584/72/39"
CONTACT_BPS = 200e6
BACKHAUL_BPS = 400e6
DELAY_S = 0.01

LARGE = (0.25e9, 100e6), (0.1e9, 10e6)
"""Bytes of each satellite, and the rate of its inter-satellite links: some to spare, and too little."""

ROUNDS = 5
SMALL_GOAL_S = 0.1
LARGE_GOAL_S = 0.5
LARGE_GOAL_MIB = 500.0
RATIO_GOAL = 100.0
GUARD_S = 1.0
CELL_S = 10.0
"""The uniform cells of the peer; it bisects to one of them."""

_ROOT = Path(__file__).parents[2]


def rows() -> Iterator[Row]:
    """CPU seconds of whole schedules (flows and ways), the peer's ratio, gaps to the bound, memory."""
    for size_bytes, isl_bps in ((1e9, 20e6), (2e9, 100e6)):
        name = f"schedule, 66 satellites x {size_bytes / 1e9:g} GB, ISL {isl_bps / 1e6:g} Mbit/s, 6 stations, 1 h"
        problem = instance(IRIDIUM, 6, 3600.0, size_bytes, isl_bps)
        took_s, solution = _solved(problem)
        yield from _costs(name, took_s, solution, SMALL_GOAL_S)
        yield from _against_networkx(name, problem, took_s, solution)
        yield from _replayed(name, problem, solution)
    for size_bytes, isl_bps in LARGE:
        name = f"schedule, 1584 satellites x {size_bytes / 1e9:g} GB, ISL {isl_bps / 1e6:g} Mbit/s, 12 stations, 2 h"
        yield from _costs(name, *_solved(instance(STARLINK, 12, 7200.0, size_bytes, isl_bps)), LARGE_GOAL_S)
        # In a process of its own, geometry and all.
        command = [sys.executable, "-m", __name__, str(size_bytes), str(isl_bps)]
        child = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT)
        peak = float(child.stdout)
        yield Row(f"{name}: peak memory of the process", peak, "MiB", LARGE_GOAL_MIB, peak <= LARGE_GOAL_MIB)


def _solved(problem: Problem) -> tuple[float, Solution]:
    took_s = []
    for _ in range(ROUNDS):
        begun_s = time.process_time()
        TimeExpanded().schedule(problem)
        took_s.append(time.process_time() - begun_s)
    return statistics.median(took_s), TimeExpanded().solve(problem)


def _costs(name: str, took_s: float, solution: Solution, goal_s: float) -> Iterator[Row]:
    shares = solution.schedule.shares
    detail = f"CPU s ({solution.solves} flows, {len(shares)} shares)"
    yield Row(name, took_s, detail, goal_s, took_s <= goal_s)
    gap = solution.schedule.completion_s / solution.certified_bound_s - 1
    yield Row(f"{name}: fluid completion beyond the certified bound", 100 * gap, "%", 1.0, gap <= 0.01)


def _replayed(name: str, problem: Problem, solution: Solution) -> Iterator[Row]:
    """What pieces of a mebibyte make of a schedule that leaves the last second of each link alone. What misses its pass
    all the same and has none left inside the horizon is not in the first figure."""
    found = replay(problem, TimeExpanded(guard_s=GUARD_S).schedule(problem))
    gap = found.completion_s / solution.certified_bound_s - 1
    yield Row(f"{name}: replayed, beyond the certified bound", 100 * gap, "%", 1.0, gap <= 0.01)
    missed = math.fsum([*found.missing_bytes.values(), *found.missed_bytes.values()]) / problem.total_bytes
    yield Row(f"{name}: replayed, bytes that missed their pass", 100 * missed, "%", 0.0, missed == 0)


def _against_networkx(name: str, problem: Problem, took_s: float, solution: Solution) -> Iterator[Row]:
    network = network_of(problem)
    commodity = pooled(network, problem.demands)
    by_s = solution.schedule.completion_s
    steps = math.ceil(math.log2(problem.end_s / CELL_S))
    uniform = OptimisticCells(grid_edges_s(network, by_s, round(by_s / CELL_S)))
    peer_s = _boykov_kolmogorov_s(expand(network, commodity, uniform))
    title = f"{name}: {steps} steps of networkx' boykov_kolmogorov on {CELL_S:g} s cells (one measured) against ours"
    ratio = steps * peer_s / took_s
    yield Row(title, ratio, "x", RATIO_GOAL, ratio >= RATIO_GOAL)
    same = OptimisticCells(event_edges_s(network, commodity, by_s))
    ratio = steps * _boykov_kolmogorov_s(expand(network, commodity, same)) / took_s
    yield Row(f"{name}: the same on our own cells", ratio, "x", None, None)


def _boykov_kolmogorov_s(graph: Graph) -> float:
    """CPU seconds of one maximum flow, the graph made beforehand."""
    peer = nx.DiGraph()
    arcs = zip(graph.tail.tolist(), graph.head.tolist(), graph.capacity.tolist(), strict=True)
    peer.add_weighted_edges_from(arcs, weight="capacity")
    begun_s = time.process_time()
    nx.maximum_flow_value(peer, graph.source, graph.sink, flow_func=nx.algorithms.flow.boykov_kolmogorov)
    return time.process_time() - begun_s


def instance(code: str, stations: int, horizon_s: float, size_bytes: float, isl_bps: float) -> Problem:
    """Every satellite's bytes to the ground."""
    orbits = open_orbits(code, Path(), EPOCH, horizon_s)
    heard = STATIONS[:stations]
    windows = [
        Window(one.satellite, one.station, one.start_s, one.end_s, CONTACT_BPS / 8, DELAY_S)
        for one in find_contacts(orbits.motion, heard, horizon_s)
    ]
    windows += (Window(one.slug, "ground", 0.0, horizon_s, BACKHAUL_BPS / 8, DELAY_S) for one in heard)
    for link in PlusGrid(seam=False).links(orbits, horizon_s):
        for start_s, end_s in link.windows:
            span = start_s, min(end_s, horizon_s), isl_bps / 8, DELAY_S
            windows += (Window(link.first, link.second, *span), Window(link.second, link.first, *span))
    demands = tuple(Demand(f"of {name}", {name: 0.0}, "ground", size_bytes) for name in orbits.motion.names)
    return Problem(tuple(sorted(windows, key=lambda window: window.start_s)), demands)


if __name__ == "__main__":
    TimeExpanded().schedule(instance(STARLINK, 12, 7200.0, *map(float, sys.argv[1:])))
    sys.stdout.write(f"{peak_mib()}\n")
