"""What a sender knows of a chunk under way: how long it waits for word of it. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from testbed.errors import IntegrityError
from testbed.rack.virtual_time import VirtualTimeLoop
from testbed.transfer.connection import Offer, StandsStill
from testbed.transfer.frames import DURABLE, GRANT, LATER, REFUSAL, pack_number, pack_text

PATIENCE_S = 30.0
SIZE = 1000


def _fly(work: Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(work(loop))
    finally:
        loop.close()


def _hears(loop: asyncio.AbstractEventLoop, offer: Offer, at_s: float, kind: int, value: int = 0) -> None:
    frame = pack_text(kind, 1, "why") if kind in (LATER, REFUSAL) else pack_number(kind, 1, value)
    loop.call_at(at_s, offer.hear, kind, frame)


def test_silence_is_borne_for_as_long_as_was_said_and_not_longer() -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        with pytest.raises(StandsStill):
            await Offer(SIZE, 0).until(lambda: False, PATIENCE_S)
        assert loop.time() == pytest.approx(PATIENCE_S, abs=1e-6)

    _fly(work)


def test_every_word_begins_the_wait_anew() -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        offer = Offer(SIZE, 0)
        for number in range(1, 10):  # far beyond one patience in all
            _hears(loop, offer, 20.0 * number, DURABLE, 100 * number)
        with pytest.raises(StandsStill):
            await offer.until(lambda: offer.accepted, PATIENCE_S)
        assert loop.time() == pytest.approx(20.0 * 9 + PATIENCE_S, abs=1e-6)

    _fly(work)


def test_word_that_ends_the_wait_ends_it_at_once_for_everybody() -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        offer = Offer(SIZE, 0)
        _hears(loop, offer, 3.0, GRANT, 0)
        _hears(loop, offer, 7.0, DURABLE, SIZE)

        async def ends_s(reached: Callable[[], bool]) -> float:
            await offer.until(reached, PATIENCE_S)
            return loop.time()

        ends = await asyncio.gather(ends_s(lambda: offer.answered), ends_s(lambda: offer.accepted))
        assert ends == pytest.approx([3.0, 7.0], abs=1e-6)
        assert offer.guessed_right

    _fly(work)


def test_a_chunk_that_was_put_off_waits_for_ever_and_then_with_patience_again() -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        offer = Offer(SIZE, 0)
        _hears(loop, offer, 1.0, LATER)
        _hears(loop, offer, 5000.0, GRANT, 0)
        with pytest.raises(StandsStill):
            await offer.until(lambda: offer.accepted, PATIENCE_S)
        assert loop.time() == pytest.approx(5000.0 + PATIENCE_S, abs=1e-6)

    _fly(work)


def test_a_refusal_is_heard_while_waiting() -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        offer = Offer(SIZE, 0)
        _hears(loop, offer, 2.0, REFUSAL)
        with pytest.raises(IntegrityError, match="why"):
            await offer.until(lambda: offer.accepted, PATIENCE_S)
        assert loop.time() == pytest.approx(2.0, abs=1e-6)

    _fly(work)


def test_a_wait_that_is_cancelled_leaves_the_others_alone() -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        offer = Offer(SIZE, 0)
        gone = asyncio.ensure_future(offer.until(lambda: offer.accepted, PATIENCE_S))
        stays = asyncio.ensure_future(offer.until(lambda: offer.accepted, PATIENCE_S))
        await asyncio.sleep(1.0)
        gone.cancel()
        _hears(loop, offer, 4.0, DURABLE, SIZE)
        await stays
        assert gone.cancelled()
        assert loop.time() == pytest.approx(4.0, abs=1e-6)

    _fly(work)
