"""The loop whose time jumps."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.clock import LoopClock
from testbed.errors import BugError
from testbed.rack.virtual_time import VirtualTimeLoop


@given(st.lists(st.floats(0, 1e6), max_size=20))
def test_timers_fire_in_order_at_exactly_their_time(delays_s: list[float]) -> None:
    loop = VirtualTimeLoop()
    fired: list[tuple[float, int]] = []

    def fire(number: int) -> None:
        fired.append((loop.time(), number))

    for number, delay_s in enumerate(delays_s):
        loop.call_later(delay_s, fire, number)
    loop.call_later(2e6, loop.stop)
    loop.run_forever()
    loop.close()
    assert sorted(number for _, number in fired) == list(range(len(delays_s)))
    assert [at_s for at_s, _ in fired] == sorted(at_s for at_s, _ in fired)
    for at_s, number in fired:
        assert at_s == pytest.approx(delays_s[number], rel=1e-12, abs=2e-9)


def test_equal_times_fire_in_the_same_order_every_time() -> None:
    def order() -> list[int]:
        loop = VirtualTimeLoop()
        fired: list[int] = []
        for number in range(50):
            loop.call_at(5.0 + number % 3, fired.append, number)
        loop.call_at(9.0, loop.stop)
        loop.run_forever()
        loop.close()
        return fired

    first = order()
    assert [number % 3 for number in first] == sorted(number % 3 for number in first)
    assert order() == first


def test_waiting_takes_no_real_time_and_computing_no_virtual() -> None:
    loop, clock = VirtualTimeLoop(), LoopClock()

    async def month() -> tuple[float, float]:
        await clock.sleep_until(30 * 86_400.0)
        before_s = clock.now()
        await clock.compute(0.0, lambda: time.sleep(0.01))
        return before_s, clock.now()

    begun_s = time.monotonic()
    assert loop.run_until_complete(month()) == (30 * 86_400.0, 30 * 86_400.0)
    loop.close()
    assert time.monotonic() - begun_s < 60.0  # not a month


def test_a_deadlock_is_said_to_be_one() -> None:
    loop = VirtualTimeLoop()

    async def forever() -> None:
        await asyncio.sleep(3.0)
        await asyncio.get_running_loop().create_future()

    task = loop.create_task(forever())
    with pytest.raises(BugError, match="every node waits for a message that nobody will send"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
