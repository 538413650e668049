"""Fluid links against integrals of their rate."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.clock import LoopClock
from testbed.errors import IntegrityError, LinkClosed
from testbed.link.plan import LinkPlan, LinkState
from testbed.rack.virtual_time import VirtualTimeLoop
from testbed.transfer.chunks import Chunk, split
from testbed.transfer.fluid import FluidNetwork
from testbed.transfer.spool import Spool
from testbed.transfer.store import ChunkStore
from testbed.transfer.transport import PAYLOAD_SHARE, Delivery

T = TypeVar("T")
States = list[tuple[float, float, float]]
"""(start_s, rate_bps, delay_ms)"""
ALWAYS: States = [(0.0, 1e6, 7.0)]


def _fly(work: Awaitable[T]) -> T:
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class _Pair:
    """Nodes ``a`` and ``b``, a link plan each way, and what ``b`` accepted when."""

    def __init__(self, out: States, back: States = ALWAYS) -> None:
        plans = {
            "a": LinkPlan("a", {"b": tuple(LinkState(s, d, r, 0.0, 64) for s, r, d in out)}),
            "b": LinkPlan("b", {"a": tuple(LinkState(s, d, r, 0.0, 64) for s, r, d in back)}),
        }
        self.clock = LoopClock()
        self.accepted: list[tuple[float, Chunk]] = []
        network = FluidNetwork(plans, self.clock)
        self.sender = network.attach("a", Spool("r", lambda peer, chunk: None))
        network.attach("b", Spool("r", lambda peer, chunk: self.accepted.append((self.clock.now(), chunk))))

    async def send(self, chunk: Chunk, not_before_s: float = 0.0, until_s: float = math.inf) -> Delivery:
        return await self.sender.deliver("b", chunk, not_before_s=not_before_s, until_s=until_s)


def _chunk(size: int, index: int = 0) -> Chunk:
    payload = np.random.default_rng(index).bytes(size)
    chunks = split(payload, max(size, 1), run="r", round=index, phase="gather", origin="a", tensor="embedding")
    return chunks[0].along(("b",))


def _carried(states: States, start_s: float, end_s: float) -> float:
    """Integral of the payload rate, in bytes: the area under a staircase."""
    starts = np.array([state[0] for state in states])
    ends = np.append(starts[1:], math.inf)
    spans = np.clip(np.minimum(ends, end_s) - np.maximum(starts, start_s), 0, None)
    return float(np.sum(spans * np.array([state[1] for state in states])) * PAYLOAD_SHARE / 8)


@st.composite
def _rates(draw: st.DrawFn) -> States:
    steps = draw(st.lists(st.tuples(st.floats(0.1, 30), st.floats(1e3, 1e6)), min_size=1, max_size=6))
    starts = np.concatenate([[0.0], np.cumsum([step for step, _ in steps])[:-1]])
    return [(float(start), rate, 20.0) for start, (_, rate) in zip(starts, steps, strict=True)]


@given(_rates(), st.integers(0, 3_000_000), st.floats(0, 50))
def test_a_transfer_takes_until_the_rate_has_added_up_to_its_size(states: States, size: int, start_s: float) -> None:
    pair = _Pair(states)
    delivery = _fly(pair.send(_chunk(size), start_s))
    ((arrived_s, chunk),) = pair.accepted
    assert len(chunk.payload) == size
    sent_s = arrived_s - 0.020
    assert _carried(states, start_s, sent_s) == pytest.approx(size, rel=1e-9, abs=1e-2)
    assert delivery.start_s == start_s
    assert delivery.resumed_from == 0
    assert delivery.end_s - arrived_s == pytest.approx(0.007, rel=1e-9, abs=1e-9)  # the acknowledgement's way back


@given(_rates(), st.floats(0.001, 0.99), st.floats(0.001, 10))
def test_what_has_not_arrived_when_a_contact_ends_is_lost_and_no_more(
    states: States, share: float, last: float
) -> None:
    closes_s = states[-1][0] + last  # the last state may be shorter than the delay
    start_s = share * closes_s
    arrives = _carried(states, start_s, closes_s - 0.020)  # what left later is still on its way
    size = int(_carried(states, start_s, closes_s)) + 1
    pair, chunk = _Pair([*states, (closes_s, 0.0, 20.0), (closes_s + 300, 1e6, 20.0)]), _chunk(size)

    async def both() -> tuple[LinkClosed, float, Delivery]:
        with pytest.raises(LinkClosed) as cut:
            await pair.send(chunk, start_s)
        cut_s = pair.clock.now()
        with pytest.raises(LinkClosed, match="is down"):
            await pair.send(chunk, closes_s + 1)
        assert pair.accepted == []
        return cut.value, cut_s, await pair.send(chunk, closes_s + 300)

    closed, cut_s, delivery = _fly(both())
    assert cut_s == pytest.approx(closes_s, rel=1e-12)
    assert closed.resumed_from == 0
    assert closed.durable_bytes == pytest.approx(arrives, abs=1.001)  # whole bytes, rounded down
    assert delivery.resumed_from == closed.durable_bytes
    rest_s = (size - closed.durable_bytes) * 8 / 1e6 / PAYLOAD_SHARE
    assert pair.accepted[0][0] == pytest.approx(closes_s + 300 + rest_s + 0.020, rel=1e-9)
    assert pair.accepted[0][1] == chunk


def test_a_planned_end_cuts_like_the_link_itself() -> None:
    pair, size = _Pair([(0.0, 8e6, 20.0)]), 10_000_000

    async def cut() -> LinkClosed:
        with pytest.raises(LinkClosed) as closed:
            await pair.send(_chunk(size), 0.0, until_s=2.0)
        assert pair.clock.now() == pytest.approx(2.0)
        return closed.value

    assert _fly(cut()).durable_bytes == pytest.approx(1e6 * PAYLOAD_SHARE * 1.98, abs=1)


def test_chunks_for_one_peer_go_one_after_the_other_and_directions_are_apart() -> None:
    pair, size = _Pair([(0.0, 8e6, 20.0)]), 470_000  # half a second each

    async def three() -> None:
        await asyncio.gather(*(pair.send(_chunk(size, index)) for index in range(3)))

    _fly(three())
    assert [chunk.id.round for _, chunk in pair.accepted] == [0, 1, 2]
    assert [at_s for at_s, _ in pair.accepted] == pytest.approx([0.52, 1.02, 1.52], rel=1e-9)


def test_a_chunk_that_is_there_already_moves_no_bytes() -> None:
    pair, chunk = _Pair([(0.0, 8e6, 20.0)]), _chunk(1000)

    async def twice() -> Delivery:
        await pair.send(chunk)
        return await pair.send(chunk)

    assert _fly(twice()).resumed_from == 1000
    assert len(pair.accepted) == 1


def test_the_highest_priority_goes_next_and_equals_in_their_order() -> None:
    pair, size = _Pair([(0.0, 8e6, 20.0)]), 470_000  # half a second each
    priorities = [0, 0, 5, -1, 5, 0]

    async def six() -> None:
        await asyncio.gather(*(pair.send(_chunk(size, index).urgent(high)) for index, high in enumerate(priorities)))

    _fly(six())
    # The first had begun when the others came.
    assert [chunk.id.round for _, chunk in pair.accepted] == [0, 2, 4, 1, 5, 3]
    assert [chunk.priority for _, chunk in pair.accepted] == [0, 5, 5, 0, 0, -1]


@given(st.floats(0, 0.05))
def test_an_empty_chunk_arrives_before_the_end_or_in_the_next_contact(left_s: float) -> None:
    # It needs no rate, but it needs the delay of 20 ms.
    pair, chunk = _Pair([(0.0, 8e6, 20.0), (10.0, 0.0, 20.0), (20.0, 8e6, 20.0)]), _chunk(0)

    async def send() -> Delivery:
        try:
            return await pair.send(chunk, 10.0 - left_s)
        except LinkClosed as closed:
            assert pair.accepted == []
            assert (closed.durable_bytes, closed.resumed_from) == (0, 0)
            return await pair.send(chunk, 20.0)

    delivery = _fly(send())
    ((arrived_s, _),) = pair.accepted
    begun_s = 10.0 - left_s
    assert arrived_s == (pytest.approx(begun_s + 0.020) if begun_s + 0.020 <= 10.0 else pytest.approx(20.020))
    assert delivery.end_s == pytest.approx(arrived_s + 0.007)


def test_a_receiver_without_room_takes_the_chunk_when_it_has_some() -> None:
    pair, first, second = _Pair([(0.0, 8e6, 20.0)]), _chunk(600, 1), _chunk(600, 2)
    store = ChunkStore("r", memory_bytes=1000.0)
    spool = Spool("r", lambda peer, chunk: spool.keep(chunk.id), store)
    pair.sender._network._spools["b"] = spool

    async def both() -> Delivery:
        await pair.send(first)
        asyncio.get_running_loop().call_at(100.0, spool.done, first.id)
        return await pair.send(second)

    delivery = _fly(both())
    assert 100.0 <= delivery.end_s < 101.2
    assert pair.sender.counts["put off"] >= 98
    assert spool.offer(second.header()) == 600


def test_a_refusal_names_both_ends_and_is_counted() -> None:
    pair, right = _Pair([(0.0, 8e6, 20.0)]), _chunk(1000)
    wrong = Chunk(right.id, right.count, right.route, b"x" * 1000, right.sha256)

    async def both() -> None:
        with pytest.raises(IntegrityError, match="a -> b: .*damaged"):
            await pair.send(wrong)
        await pair.send(right)

    _fly(both())
    assert pair.sender.counts["refusals"] == 1
    assert [chunk for _, chunk in pair.accepted] == [right]
