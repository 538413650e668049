"""How early all bytes could be through: a lower bound in closed form.

What arrives at a node has come through its neighbours, and what leaves one goes through them. By ``t`` a neighbour can
have passed on no more than ``C(t) + min over u <= t of A(u) - C(u)``, where ``A`` and ``C`` are all that its links on
the way in and on the way out can have carried (the backlog equation of a queue; Cruz, IEEE Trans. Inf. Theory 37,
1991). Summed over neighbours that must have reached the demand. Storage limits, ways of more than two hops and delays
are left out: each only makes it later.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controller.flow.network import Bools, Floats, Ints, Links, Network, network_of
from testbed.flow.problem import Demand, Problem

MOST_PATIENT = 32
"""Nodes whose neighbours are looked through as well. Where there are more, their own links alone count."""

MOST_RELEASES = 16
"""Release times of one node from each of which on its links are added up."""

Load = list[tuple[float, float]]
"""Bytes that must pass a node's links: from when on, and how many."""


def lower_bound_s(problem: Problem) -> float:
    """The mission time before which no schedule can be through. Infinite where the windows never suffice."""
    return network_bound_s(network_of(problem), problem.demands)


def network_bound_s(network: Network, demands: Sequence[Demand]) -> float:
    """The same for some demands over what is left of a network."""
    wanted = [demand for demand in demands if demand.size_bytes > 0]
    bound_s = max((_first_s(network, demand) for demand in wanted), default=network.start_s)
    arriving: dict[int, Load] = defaultdict(list)
    leaving: dict[int, Load] = defaultdict(list)
    holders, targets = np.zeros((2, len(network.names)), dtype=bool)
    for demand in wanted:
        targets[network.number[demand.destination]] = True
        holders[[network.number[name] for name in demand.ready_s]] = True
        if demand.destination not in demand.ready_s:
            load = _first_s(network, demand), demand.size_bytes
            arriving[network.number[demand.destination]].append(load)
            if len(demand.ready_s) == 1:
                leaving[network.number[next(iter(demand.ready_s))]].append(load)
    links = network.links
    bound_s = _latest_s(links, arriving, links.receiver, lambda node: _towards(links, node, holders), bound_s)
    return _latest_s(links, leaving, links.sender, lambda node: _away_from(links, node, targets), bound_s)


def carried_s(links: Links, from_s: float, size_bytes: float) -> float:
    """When links that are all used from ``from_s`` on have carried so much together; infinite if never."""
    return _through_s([_Stages(links, None)], from_s, size_bytes)


@dataclass(frozen=True)
class _Stages:
    """Links towards a neighbour and links onward, one after the other; or one of the two alone."""

    first: Links
    second: Links | None


def _first_s(network: Network, demand: Demand) -> float:
    return max(network.start_s, min(demand.ready_s.values()))


def _towards(links: Links, node: int, holders: Bools) -> Iterator[_Stages]:
    """Through each neighbour into the node. A neighbour that holds bytes itself need not get them first."""
    into = links.chosen(links.receiver == node)
    for neighbour in np.unique(into.sender):
        last = into.chosen(into.sender == neighbour)
        before = links.chosen((links.receiver == neighbour) & (links.sender != node))
        yield _Stages(last, None) if holders[neighbour] else _Stages(before, last)


def _away_from(links: Links, node: int, targets: Bools) -> Iterator[_Stages]:
    """Out of the node through each neighbour. One that bytes may be for need not send them on."""
    out = links.chosen(links.sender == node)
    for neighbour in np.unique(out.receiver):
        first = out.chosen(out.receiver == neighbour)
        onward = links.chosen((links.sender == neighbour) & (links.receiver != node))
        yield _Stages(first, None if targets[neighbour] else onward)


def _latest_s(
    links: Links, loads: Mapping[int, Load], end: Ints, stages: Callable[[int], Iterator[_Stages]], bound_s: float
) -> float:
    """The latest of ``bound_s`` and the nodes' bounds: a load's bytes all pass links whose ``end`` is its node."""
    if len(loads) <= MOST_PATIENT:
        for node, load in loads.items():
            ways = list(stages(node))
            for from_s, size_bytes in _from_each_release(load):
                bound_s = max(bound_s, _through_s(ways, from_s, size_bytes))
        return bound_s
    for node in _overloaded(links, loads, end, bound_s):
        own = [_Stages(links.chosen(end == node), None)]
        for from_s, size_bytes in _from_each_release(loads[node]):
            bound_s = max(bound_s, _through_s(own, from_s, size_bytes))
    return bound_s


def _from_each_release(load: Load) -> Iterator[tuple[float, float]]:
    """From each of some instants on: the bytes that are not ready before."""
    releases_s = sorted({at_s for at_s, _ in load})
    for from_s in releases_s[:: -(-len(releases_s) // MOST_RELEASES)]:
        yield from_s, math.fsum(size_bytes for at_s, size_bytes in load if at_s >= from_s)


def _overloaded(links: Links, loads: Mapping[int, Load], end: Ints, bound_s: float) -> list[int]:
    """Nodes whose links cannot carry their load from its first release until ``bound_s``."""
    count = int(max(end.max(initial=-1), *loads)) + 1
    from_s, size_bytes = np.full(count, math.inf), np.zeros(count)
    for node, load in loads.items():
        from_s[node], size_bytes[node] = min(load)[0], math.fsum(size for _, size in load)
    span_s = np.minimum(links.end_s, bound_s) - np.maximum(links.start_s, from_s[end])
    room_bytes = np.bincount(end, np.maximum(span_s, 0.0) * links.rate_Bps, count)
    found: list[int] = np.flatnonzero(room_bytes < size_bytes).tolist()
    return found


def _through_s(ways: Sequence[_Stages], from_s: float, size_bytes: float) -> float:
    """When so many bytes can have passed the ways together, all of which begin empty at ``from_s``."""
    if size_bytes <= 0:
        return from_s
    parts = [part for way in ways for part in (way.first, way.second) if part is not None]
    events_s = np.concatenate([[from_s], *(part.start_s for part in parts), *(part.end_s for part in parts)])
    times_s = np.unique(events_s[events_s >= from_s])
    first = np.array([_carried_bytes(way.first, times_s) for way in ways]).reshape(len(ways), len(times_s))
    none = np.zeros(len(times_s))
    second = np.array([none if way.second is None else _carried_bytes(way.second, times_s) for way in ways])
    second = second.reshape(first.shape)
    single = np.array([way.second is None for way in ways], dtype=bool)
    ahead = np.where(single[:, None], np.inf, np.minimum.accumulate(first - second, axis=1))
    passed = np.minimum(first, second + ahead).sum(axis=0)
    # A share of 1e-12 is what adding up in another order may change.
    place = int(np.searchsorted(passed, size_bytes * (1 - 1e-12), "left"))
    if place == len(times_s):
        return math.inf
    if place == 0:
        return float(times_s[0])

    def room_bytes(share: float) -> float:
        """At a share of the segment: each way's is the lesser of two straight lines."""
        here = slice(place - 1, place + 1)
        line_1 = first[:, here] @ (1 - share, share)
        line_2 = second[:, here] @ (1 - share, share) + ahead[:, place - 1]
        return float(np.minimum(line_1, line_2).sum())

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if room_bytes(middle) < size_bytes else (low, middle)
    return float(times_s[place - 1] + low * (times_s[place] - times_s[place - 1]))


def _carried_bytes(links: Links, times_s: Floats) -> Floats:
    """What the links can have carried together from the first of the times until each."""
    rate_Bps = np.zeros(len(times_s))
    up = links.end_s > times_s[0]
    np.add.at(rate_Bps, np.searchsorted(times_s, np.maximum(links.start_s[up], times_s[0])), links.rate_Bps[up])
    np.add.at(rate_Bps, np.searchsorted(times_s, links.end_s[up]), -links.rate_Bps[up])
    carried: Floats = np.concatenate([[0.0], np.cumsum(np.cumsum(rate_Bps)[:-1] * np.diff(times_s))])
    return carried
