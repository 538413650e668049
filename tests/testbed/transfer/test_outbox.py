"""The sending end: a producer that is faster than its link waits, and a restarted one sends nothing twice."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from testbed.clock import LoopClock
from testbed.errors import LinkError
from testbed.link.plan import LinkPlan, LinkState
from testbed.rack.virtual_time import VirtualTimeLoop
from testbed.transfer.chunks import Chunk, split
from testbed.transfer.fluid import FluidNetwork
from testbed.transfer.outbox import LOADED_CHUNKS, Outbox
from testbed.transfer.spool import Spool
from testbed.transfer.store import OUTGOING, ChunkStore, NoRoom
from testbed.transfer.transport import PAYLOAD_SHARE

SIZE_BYTES = 64 * 1024


def _fly(work: Coroutine[Any, Any, None]) -> None:
    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


def _chunk(index: int, route: tuple[str, ...] = ("b",), size_bytes: int = SIZE_BYTES) -> Chunk:
    payload = random.Random(index).randbytes(size_bytes)
    (chunk,) = split(payload, max(size_bytes, 1), run="r", round=index, phase="up", origin="a", tensor="embedding")
    return chunk.along(route)


class _Link:
    """``a`` sends to ``b`` over a fluid link of 8 Mbit/s; ``arrived`` says which chunk when."""

    def __init__(self) -> None:
        always = (LinkState(0.0, 10.0, 8e6, 0.0, 64),)
        self.clock = LoopClock()
        self.arrived: list[tuple[int, float]] = []
        network = FluidNetwork({"a": LinkPlan("a", {"b": always}), "b": LinkPlan("b", {"a": always})}, self.clock)
        self._transport = network.attach("a", Spool("r", lambda peer, chunk: None))
        network.attach("b", Spool("r", lambda peer, chunk: self.arrived.append((chunk.id.round, self.clock.now()))))

    async def send(self, chunk: Chunk) -> bool:
        await self._transport.deliver("b", chunk, not_before_s=0.0, until_s=float("inf"))
        return True


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_fast_producer_waits_and_memory_is_bounded(tmp_path: Path, on_disk: bool) -> None:
    count, room = 200, 8
    store = ChunkStore("r", memory_bytes=0 if on_disk else 1e9, folder=tmp_path if on_disk else None)
    most_bytes = most_chunks = 0

    async def produce() -> None:
        nonlocal most_bytes, most_chunks
        link = _Link()
        outbox = Outbox(store, link.send, room_chunks=room)
        tracemalloc.start()
        for index in range(count):
            await outbox.put(_chunk(index))
            most_chunks = max(most_chunks, len(store.held(OUTGOING)))
        # The last one was taken when the link had made room for it: all but ``room`` were through.
        rate_Bps = 8e6 * PAYLOAD_SHARE / 8  # noqa: N806
        assert link.clock.now() == pytest.approx((count - room) * SIZE_BYTES / rate_Bps, rel=0.01)
        await outbox.drain()
        most_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [index for index, _ in link.arrived] == list(range(count))

    _fly(produce())
    store.close()
    assert most_chunks == room
    held = LOADED_CHUNKS if on_disk else room
    # Beside what waits: one chunk being made and one arriving, each perhaps as two copies, and 0.6 kB of names a chunk.
    assert most_bytes < (held + 4) * SIZE_BYTES + count * 600
    assert store.disk_used_bytes == store.memory_used_bytes == 0


def test_a_full_store_makes_the_producer_wait_and_loses_nothing(tmp_path: Path) -> None:
    store = ChunkStore("r", memory_bytes=0, folder=tmp_path, disk_bytes=3 * SIZE_BYTES)

    async def produce() -> None:
        link = _Link()
        outbox = Outbox(store, link.send)
        with pytest.raises(NoRoom):  # nothing that is under way would ever make room for this
            await outbox.put(_chunk(99, size_bytes=4 * SIZE_BYTES))
        for index in range(12):
            await outbox.put(_chunk(index))
            assert store.disk_used_bytes <= 3 * SIZE_BYTES
        await outbox.drain()
        assert [index for index, _ in link.arrived] == list(range(12))

    _fly(produce())
    store.close()


def test_a_restarted_producer_puts_everything_again_and_sends_the_rest(tmp_path: Path) -> None:
    async def produce(until_s: float) -> tuple[list[int], int]:
        store = ChunkStore("r", memory_bytes=0, folder=tmp_path)
        link = _Link()
        outbox = Outbox(store, link.send, room_chunks=4)
        left = outbox.recover()

        async def put() -> None:
            for index in range(10):
                await outbox.put(_chunk(index))
            await outbox.drain()

        putting = asyncio.ensure_future(put())
        await asyncio.wait([putting], timeout=until_s)
        putting.cancel()
        await outbox.close()
        store.close()
        return [index for index, _ in link.arrived], left

    loop = VirtualTimeLoop()
    chunk_s = SIZE_BYTES / (8e6 * PAYLOAD_SHARE / 8)
    first, none = loop.run_until_complete(produce(4.5 * chunk_s))
    second, left = loop.run_until_complete(produce(100.0))
    third, nothing = loop.run_until_complete(produce(100.0))
    loop.close()
    assert (none, left, nothing) == (0, 4, 0)
    assert first == [0, 1, 2, 3]
    assert second == [4, 5, 6, 7, 8, 9]  # the fifth was under way when the first process ended
    assert third == []


def test_priority_goes_first_and_a_neighbour_that_is_away_delays_nobody_else() -> None:
    sent: list[tuple[str, int]] = []

    async def produce() -> None:
        gone = asyncio.Event()

        async def send(chunk: Chunk) -> bool:
            if chunk.route[0] == "away":
                await gone.wait()
            sent.append((chunk.route[0], chunk.id.round))
            await asyncio.sleep(1.0)
            return True

        outbox = Outbox(ChunkStore("r", memory_bytes=1e9), send, room_chunks=6)
        for index in range(6):
            await outbox.put(_chunk(index, ("away",), 10))
        for index in range(10, 16):
            await outbox.put(_chunk(index, ("b",), 10).urgent(7 if index == 15 else 0))
        await asyncio.sleep(10.0)
        assert sent == [("b", index) for index in (10, 11, 12, 13, 15, 14)]  # four were under way
        gone.set()
        await outbox.drain()

    _fly(produce())
    assert sorted(sent) == sorted(
        [*(("away", index) for index in range(6)), *(("b", index) for index in range(10, 16))]
    )


def test_arrived_chunks_go_on_from_the_store_and_are_given_up_or_done_with() -> None:
    store, onward = ChunkStore("r", memory_bytes=1e9), []

    async def relay() -> None:
        async def send(chunk: Chunk) -> bool:
            onward.append(chunk)
            return chunk.id.round != 1

        def accept(peer: str, chunk: Chunk) -> None:
            spool.keep(chunk.id)
            outbox.pass_on(chunk)

        outbox, spool = Outbox(store, send), Spool("r", accept, store)
        chunks = [_chunk(index, ("here", "next", "last"), 10) for index in range(3)]
        for chunk in chunks:
            spool.offer(chunk.header())
            spool.write("p", chunk.header(), 0, chunk.payload)
        await outbox.drain()
        assert onward == [chunk.onward() for chunk in chunks]
        # The second was given up: it may come this way again.
        assert [spool.offer(chunk.header()) for chunk in chunks] == [10, 0, 10]

    _fly(relay())


def test_what_cannot_be_sent_stays_and_is_told_to_the_producer() -> None:
    store = ChunkStore("r", memory_bytes=1e9)

    async def produce() -> None:
        async def send(chunk: Chunk) -> bool:
            raise LinkError("a -> b: nothing moves")

        outbox = Outbox(store, send, room_chunks=1)
        await outbox.put(_chunk(0))
        with pytest.raises(LinkError, match="nothing moves"):
            await outbox.put(_chunk(1))
        with pytest.raises(LinkError, match="nothing moves"):
            await outbox.drain()

    _fly(produce())
    assert len(store.held(OUTGOING)) == 1
