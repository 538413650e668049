"""Predicted against flown over the rack's fluid links, in virtual time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.collective.forecast import (
    Crossing,
    Links,
    gather_crossings,
    gather_s,
    least_gather_s,
    reduce_crossings,
    reduce_s,
    replay_s,
)
from testbed.collective.gather import all_gather
from testbed.collective.journeys import BOTH_WAYS, ONE_WAY, Ways
from testbed.collective.membership import Membership
from testbed.collective.neighbours import Neighbours
from testbed.collective.reduce import Sum, WeightedMean, round_the_ring
from testbed.transfer.transport import PAYLOAD_SHARE

RATE_BPS, DELAY_S = 25e6, 0.010
LINKS = Links(RATE_BPS * PAYLOAD_SHARE / 8, DELAY_S)
SUB_CHUNK_BYTES = 16 * 1024
WAYS = pytest.mark.parametrize("ways", [ONE_WAY, BOTH_WAYS], ids=["one way", "both ways"])
SHAPES = pytest.mark.parametrize(("count", "closed"), [(2, False), (3, True), (5, True), (8, True), (7, False)])


def _plane(count: int, closed: bool) -> Membership:
    return Membership(tuple(f"sat-0-{i}" for i in range(count)), closed)


def _gathered(fluid: Any, plane: Membership, sizes: dict[str, int], ways: Ways) -> float:
    async def work(neighbours: Neighbours) -> dict[str, bytes]:
        mine = bytes(sizes[neighbours.name])
        return await all_gather(neighbours, plane, "t", mine, sizes, ways=ways, sub_chunk_bytes=SUB_CHUNK_BYTES)

    return float(fluid(plane, work, RATE_BPS, DELAY_S)[1])


def _reduced(fluid: Any, total: Sum, tensor: NDArray[Any], ways: Ways) -> float:
    async def work(neighbours: Neighbours) -> NDArray[Any]:
        return await round_the_ring(neighbours, total, "t", tensor, ways, SUB_CHUNK_BYTES)

    return float(fluid(total.membership, work, RATE_BPS, DELAY_S)[1])


@SHAPES
@WAYS
def test_a_gather_takes_as_long_as_replayed(fluid, count: int, closed: bool, ways: Ways) -> None:  # type: ignore[no-untyped-def]
    plane, block = _plane(count, closed), 400_000
    sizes = dict.fromkeys(plane.members, block)
    took_s = _gathered(fluid, plane, sizes, ways)
    crossings = gather_crossings(plane, sizes, ways=ways, sub_chunk_bytes=SUB_CHUNK_BYTES)
    assert took_s == pytest.approx(replay_s(crossings, LINKS), rel=0.02)
    # Sub-chunks hide hops, and nothing else differs from the closed form: 3 delays at most, and 3 sub-chunks.
    slack_s = 3 * (SUB_CHUNK_BYTES / LINKS.rate_Bps + DELAY_S)
    assert least_gather_s(plane, sizes, LINKS) <= took_s + 1e-9
    assert took_s <= gather_s(plane, block, LINKS, ways) + slack_s
    share = (count - 1) / (ways.directions if closed else 1)
    assert took_s >= share * block / LINKS.rate_Bps


@SHAPES
@WAYS
@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_a_reduce_takes_as_long_as_replayed(fluid, count: int, closed: bool, ways: Ways, dtype: str) -> None:  # type: ignore[no-untyped-def]
    plane, tensor = _plane(count, closed), np.ones(100_003, dtype)
    total = Sum(plane, tensor)
    took_s = _reduced(fluid, total, tensor, ways)
    crossings = reduce_crossings(total, tensor.size, ways=ways, sub_chunk_bytes=SUB_CHUNK_BYTES)
    assert took_s == pytest.approx(replay_s(crossings, LINKS), rel=0.02)
    closed_s = reduce_s(total, tensor.size, LINKS, ways, SUB_CHUNK_BYTES)
    assert took_s <= closed_s * 1.02 + DELAY_S  # the acknowledgement is not in it
    if not closed:
        assert took_s == pytest.approx(closed_s + DELAY_S, rel=0.05)


def test_the_closed_forms_are_the_textbooks() -> None:
    links, tensor = Links(1000.0, 0.5), np.zeros(800, "i8")
    ring, line = Sum(_plane(8, True), tensor), Sum(_plane(7, False), tensor)
    assert gather_s(ring.membership, 300, links, ONE_WAY) == pytest.approx(7 * (300 / 1000 + 0.5))
    assert gather_s(ring.membership, 300, links, BOTH_WAYS) == pytest.approx(3.5 * 300 / 1000 + 4 * 0.5)
    assert gather_s(line.membership, 300, links, BOTH_WAYS) == pytest.approx(6 * (300 / 1000 + 0.5))
    assert reduce_s(ring, 800, links, ONE_WAY) == pytest.approx(2 * 7 * (6400 / 8000 + 0.5))
    assert reduce_s(ring, 800, links, BOTH_WAYS) == pytest.approx(2 * 7 * 6400 / 16000 + 2 * 4 * 0.5)
    # The tensor once, one sub-chunk of 80 bytes at the other five hops.
    assert reduce_s(line, 800, links, BOTH_WAYS, 80) == pytest.approx((6400 + 5 * 80) / 1000 + 6 * 0.5)
    assert reduce_s(Sum(_plane(1, False), tensor), 800, links) == 0.0
    floats = Sum(_plane(8, True), np.zeros(800, "f4"))
    widths = 4 + 6 * 8 + 7 * 4  # as it is, float64 partials, the sum
    assert reduce_s(floats, 800, links, ONE_WAY) == pytest.approx(widths * 100 / 1000 + 14 * 0.5)
    widths_both = 2 * 4 + 5 * 8 + 7 * 4  # both arms begin with a tensor as it is
    assert reduce_s(floats, 800, links, BOTH_WAYS) == pytest.approx(widths_both * 100 / 2000 + 8 * 0.5)
    weighted = WeightedMean(floats.membership, np.zeros(1, "f4"), dict.fromkeys(floats.membership.members, 1.0))
    assert reduce_s(weighted, 800, links, ONE_WAY) == pytest.approx((widths + 4) * 100 / 1000 + 14 * 0.5)


@pytest.mark.parametrize("count", [3, 5, 8])
def test_a_ring_that_never_idles_takes_its_bytes_and_two_delays(count: int) -> None:
    """Where a block takes longer than a hop's delay, links of a one-way ring work without a pause: (K-1) m/B, the last
    hop's delay and its acknowledgement's."""
    plane = _plane(count, True)
    crossings = gather_crossings(plane, dict.fromkeys(plane.members, 100_000), ways=ONE_WAY, sub_chunk_bytes=10_000)
    assert replay_s(crossings, Links(1e6, 0.05)) == pytest.approx((count - 1) * 0.1 + 2 * 0.05, rel=1e-9)


@pytest.mark.parametrize("count", [3, 4, 5, 8, 9])
@WAYS
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_every_link_of_a_ring_carries_the_same_and_no_more_than_the_bound(count: int, ways: Ways, dtype: str) -> None:
    plane, size = _plane(count, True), 1_000_000
    total = Sum(plane, np.zeros(1, dtype))
    item = total.arithmetic.item.itemsize
    crossings = reduce_crossings(total, size // item, ways=ways)
    carried: dict[tuple[str, str], int] = {}
    for crossing in crossings:
        link = (crossing.sender, crossing.receiver)
        carried[link] = carried.get(link, 0) + crossing.size_bytes
    assert len(carried) == count * ways.directions
    bound = 2 * (count - 1) / count * size / ways.directions  # Patarasuk and Yuan, 2009
    # Sums of float32 under way are twice as long, but for the first hop of each path.
    bound += (count - 1 - ways.directions) / count * size / ways.directions * (8 / item - 1)
    # Segments differ by an element, and each message has its seal.
    assert list(carried.values()) == pytest.approx([bound] * len(carried), abs=40 * count + 4 * len(crossings))


def test_a_message_waits_for_its_link_and_for_all_that_it_needs() -> None:
    links = Links(100.0, 0.5)
    long, short = Crossing("a", "b", 200), Crossing("c", "b", 10)
    last = Crossing("b", "d", 100, (0, 1))
    assert replay_s([long, short, last], links) == pytest.approx(2.0 + 0.5 + 1.0 + 2 * 0.5)
    assert replay_s([long, long, last], links) == pytest.approx(2 * 2.0 + 0.5 + 1.0 + 2 * 0.5)
    assert replay_s([], links) == 0.0


@given(st.integers(2, 9), st.booleans(), st.lists(st.integers(0, 60_000), min_size=9, max_size=9))
@settings(max_examples=30)
def test_blocks_of_any_length_are_replayed_too(fluid, count: int, closed: bool, lengths: list[int]) -> None:  # type: ignore[no-untyped-def]
    plane = _plane(count, closed and count > 2)
    sizes = dict(zip(plane.members, lengths, strict=False))
    took_s = _gathered(fluid, plane, sizes, BOTH_WAYS)
    crossings = gather_crossings(plane, sizes, sub_chunk_bytes=SUB_CHUNK_BYTES)
    # Which of two chunks that are ready together goes first is not determined: one sub-chunk, either way.
    assert took_s == pytest.approx(replay_s(crossings, LINKS), rel=0.02, abs=SUB_CHUNK_BYTES / LINKS.rate_Bps)
    assert took_s >= least_gather_s(plane, sizes, LINKS) - 1e-9 or not sum(sizes.values())
