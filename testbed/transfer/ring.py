"""Routes of the ring collectives inside one plane."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence


def gather_routes(ring: Sequence[str], origin: str, index: int) -> tuple[tuple[str, ...], ...]:
    """The two routes of one chunk in a bidirectional all-gather: every other node exactly once, no hop further than
    half the ring.

    With an even number of nodes the node opposite is as far one way as the other; chunks alternate by ``index``, so
    that both directions of the ring carry the same. Each link then carries (K-1)/2 blocks instead of K-1.
    """
    count = len(ring)
    here = ring.index(origin)
    onward = count // 2 if index % 2 == 0 else (count - 1) // 2
    forward = tuple(ring[(here + hop) % count] for hop in range(1, onward + 1))
    backward = tuple(ring[(here - hop) % count] for hop in range(1, count - onward))
    return tuple(route for route in (forward, backward) if route)


def shortest_route(ring: Sequence[str], start: str, end: str) -> tuple[str, ...]:
    """The nodes after ``start`` on the shorter way to ``end``; forward on a tie; empty when they are the same."""
    count = len(ring)
    here, there = ring.index(start), ring.index(end)
    ahead = (there - here) % count
    step, hops = (1, ahead) if ahead <= count - ahead else (-1, count - ahead)
    return tuple(ring[(here + step * hop) % count] for hop in range(1, hops + 1))


def gather_arrivals(
    routes: Callable[[str, int], Sequence[Sequence[str]]],
    blocks: Mapping[str, Sequence[int]],
    ready_s: Mapping[str, float],
    rate_Bps: float,
    hop_delay_s: float,
) -> dict[tuple[str, str, int], float]:
    """When each chunk of a bidirectional all-gather arrives: {(node, origin, index): seconds}.

    ``routes`` are those of an origin's chunk by its index (the nodes after the origin), ``blocks`` chunk sizes in bytes
    by origin, ``ready_s`` when each origin starts sending. A directed link serves chunks in the order they become ready
    (a tandem queue), as the transports do, and where that is equal in the order of ``blocks``.
    """
    arrivals = {(origin, origin, i): ready_s[origin] for origin in blocks for i in range(len(blocks[origin]))}
    free_s: dict[tuple[str, str], float] = {}
    queue: list[tuple[float, int, str, int, str, Sequence[str]]] = []
    for order, origin in enumerate(blocks):
        for index in range(len(blocks[origin])):
            for route in routes(origin, index):
                heapq.heappush(queue, (ready_s[origin], order * 1_000_000 + index, origin, index, origin, route))
    while queue:
        now_s, order, origin, index, here, route = heapq.heappop(queue)
        link = (here, route[0])
        sent_s = max(now_s, free_s.get(link, 0.0)) + blocks[origin][index] / rate_Bps
        free_s[link] = sent_s
        arrived_s = sent_s + hop_delay_s
        arrivals[route[0], origin, index] = arrived_s
        if route[1:]:
            heapq.heappush(queue, (arrived_s, order, origin, index, route[0], route[1:]))
    return arrivals
