"""Ring routes and the predicted all-gather, against what a full-duplex ring can do at best."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.transfer.ring import gather_arrivals, gather_routes, shortest_route


def _ring(count: int) -> tuple[str, ...]:
    return tuple(f"n{index:02}" for index in range(count))


def _neighbours(ring: tuple[str, ...], one: str, other: str) -> bool:
    return (ring.index(one) - ring.index(other)) % len(ring) in (1, len(ring) - 1)


@given(st.integers(1, 24), st.data())
def test_every_other_node_gets_a_block_once_and_none_from_beyond_half_the_ring(count: int, data: st.DataObject) -> None:
    ring = _ring(count)
    origin = ring[data.draw(st.integers(0, count - 1))]
    routes = gather_routes(ring, origin, data.draw(st.integers(0, 5)))
    assert sorted(node for route in routes for node in route) == [node for node in ring if node != origin]
    for route in routes:
        assert 1 <= len(route) <= count // 2
        assert all(_neighbours(ring, *hop) for hop in zip((origin, *route), route, strict=False))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("chunks", [2, 6])
def test_every_directed_link_carries_half_of_what_one_way_rings_carry(count: int, chunks: int) -> None:
    # K nodes' blocks each cross K - 1 links; 2 K directed links share that: (K - 1) / 2 blocks a link. A ring of two
    # has one link each way.
    ring = _ring(count)
    load: Counter[tuple[str, str]] = Counter()
    for origin in ring:
        for index in range(chunks):
            for route in gather_routes(ring, origin, index):
                load.update(zip((origin, *route), route, strict=False))
    links = {1: 0, 2: 2}.get(count, 2 * count)
    assert len(load) == links
    assert set(load.values()) <= {count * (count - 1) * chunks // max(links, 1)}


@given(st.integers(1, 24), st.data())
def test_the_shortest_route_is_the_shorter_way_round(count: int, data: st.DataObject) -> None:
    ring = _ring(count)
    here, there = (data.draw(st.integers(0, count - 1)) for _ in range(2))
    route = shortest_route(ring, ring[here], ring[there])
    assert len(route) == min((there - here) % count, (here - there) % count)
    assert all(_neighbours(ring, *hop) for hop in zip((ring[here], *route), route, strict=False))
    assert (route[-1:] or (ring[here],)) == (ring[there],)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_an_all_gather_takes_as_long_as_its_links_are_busy(count: int) -> None:
    # Equal blocks of m bytes: a link carries (K - 1) / 2 of them, and the last byte then still has a link's delay to
    # go. Nothing can be faster; a chunk's store and forward on every hop is all that it may be slower.
    ring, rate_Bps, hop_s, size, chunks = _ring(count), 400_000.0, 0.018, 50_000, 20
    blocks = {node: [size] * chunks for node in ring}
    arrivals = gather_arrivals(partial(gather_routes, ring), blocks, dict.fromkeys(ring, 5.0), rate_Bps, hop_s)
    assert set(arrivals) == {(node, origin, i) for node in ring for origin in ring for i in range(chunks)}
    took_s = max(arrivals.values()) - 5.0
    if count == 1:
        assert took_s == 0
        return
    share = (count - 1) / 2 if count > 2 else 1
    busy_s, hops = share * size * chunks / rate_Bps, count // 2
    assert busy_s + hop_s - 1e-9 <= took_s <= busy_s + hops * hop_s + size / rate_Bps


@given(st.integers(2, 9), st.data())
def test_no_link_carries_two_chunks_at_a_time_and_none_leaves_before_it_came(count: int, data: st.DataObject) -> None:
    ring, rate_Bps, hop_s = _ring(count), 1_000.0, 0.25
    blocks = {node: data.draw(st.lists(st.integers(1, 3_000), min_size=1, max_size=4)) for node in ring}
    ready_s = {node: data.draw(st.floats(0, 10)) for node in ring}
    arrivals = gather_arrivals(partial(gather_routes, ring), blocks, ready_s, rate_Bps, hop_s)
    busy: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for origin in ring:
        for index, size in enumerate(blocks[origin]):
            for route in gather_routes(ring, origin, index):
                for here, there in zip((origin, *route), route, strict=False):
                    sent_s = arrivals[there, origin, index] - hop_s
                    begun_s = sent_s - size / rate_Bps
                    assert begun_s >= arrivals[here, origin, index] - 1e-9
                    busy.setdefault((here, there), []).append((begun_s, sent_s))
    for spans in busy.values():
        spans.sort()
        assert all(one[1] <= other[0] + 1e-9 for one, other in zip(spans, spans[1:], strict=False))
