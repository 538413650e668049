"""The clock of one node in real time. Waits are tenths of a second and tolerances generous: the host may be busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from testbed.clock import ClockCommit, monotonic_s
from testbed.mission_clock import MissionClock

LATE_S = 2.0
"""How late the host may be at anything without a test calling it wrong."""


def _fly(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60.0))


def test_it_stands_at_zero_until_it_is_started_and_counts_down_to_its_start() -> None:
    async def work() -> None:
        clock = MissionClock()
        assert clock.now() == 0.0
        clock.start(monotonic_s() + 5.0)
        assert -5.0 <= clock.now() < -5.0 + LATE_S or clock.now() == 0.0
        await asyncio.sleep(0.05)
        assert clock.now() < LATE_S

    _fly(work())


def test_without_a_commit_it_simply_runs() -> None:
    async def work() -> None:
        clock = MissionClock()
        clock.start(monotonic_s())
        begun_s = monotonic_s()
        await clock.sleep_until(0.2)
        took_s = monotonic_s() - begun_s
        assert 0.15 < took_s < 0.2 + LATE_S
        assert clock.now() >= 0.2

    _fly(work())


def test_a_skip_wakes_who_waited_for_what_was_skipped() -> None:
    async def work() -> None:
        clock = MissionClock()
        clock.start(monotonic_s())
        woken: list[float] = []

        async def wait(mission_s: float) -> None:
            await clock.sleep_until(mission_s)
            woken.append(mission_s)
            assert clock.now() >= mission_s

        waits = [asyncio.ensure_future(wait(mission_s)) for mission_s in (700.0, 500.0, 600.0, 600.1)]
        await asyncio.sleep(0)
        assert clock.activity().wake_mission_s == 500.0
        begun_s = monotonic_s()
        clock.apply(ClockCommit(clock.epoch + 1, begun_s + 0.02, 600.0, running=True))
        await asyncio.wait_for(asyncio.gather(*waits[1:]), LATE_S)
        assert woken == [500.0, 600.0, 600.1]
        assert monotonic_s() - begun_s > 0.1  # 600.1 is a tenth after 600 and no sooner
        assert not waits[0].done()
        waits[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits[0]
        assert clock.activity().wake_mission_s is None  # nobody waits any more

    _fly(work())


def test_a_hold_keeps_everybody_waiting_and_a_run_lets_them_go() -> None:
    async def work() -> None:
        clock = MissionClock()
        clock.start(monotonic_s())
        waiting = asyncio.ensure_future(clock.sleep_until(0.15))
        await asyncio.sleep(0)
        clock.apply(ClockCommit(clock.epoch + 1, monotonic_s(), 0.05, running=False))
        await asyncio.sleep(0.4)
        assert not waiting.done()
        assert clock.now() == 0.05
        clock.apply(ClockCommit(clock.epoch + 1, monotonic_s(), 0.05, running=True))
        begun_s = monotonic_s()
        await waiting
        assert 0.08 < monotonic_s() - begun_s < 0.1 + LATE_S

    _fly(work())


def test_an_old_commit_changes_nothing() -> None:
    async def work() -> None:
        clock = MissionClock()
        clock.start(monotonic_s())
        clock.apply(ClockCommit(7, monotonic_s(), 1_000.0, running=True))
        clock.apply(ClockCommit(6, monotonic_s(), 5_000.0, running=True))
        clock.apply(ClockCommit(7, monotonic_s(), 5_000.0, running=True))
        assert clock.epoch == 7
        assert 1_000.0 <= clock.now() < 1_000.0 + LATE_S

    _fly(work())


def test_a_charge_is_paid_in_mission_time_and_work_goes_on_beside_the_loop() -> None:
    async def work() -> None:
        clock = MissionClock()
        clock.start(monotonic_s())
        begun_s, seen = clock.now(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def compute() -> str:
            loop.call_soon_threadsafe(seen.set)
            return threading.current_thread().name

        computing = asyncio.ensure_future(clock.compute(0.3, compute))
        await seen.wait()
        name = await computing
        assert name != threading.current_thread().name
        assert clock.now() - begun_s >= 0.3

    _fly(work())


def test_what_it_says_it_does() -> None:
    async def work() -> None:
        clock, changes = MissionClock(), 0
        clock.start(monotonic_s())

        def count() -> None:
            nonlocal changes
            changes += 1

        clock.on_activity = count
        async with clock.in_flight():
            async with clock.in_flight():
                assert (clock.activity().in_flight, clock.activity().moving) == (2, 2)
            assert clock.activity().in_flight == 1
        assert clock.activity().in_flight == 0
        assert changes == 6
        go = threading.Event()
        computing = asyncio.ensure_future(clock.compute(0.0, go.wait))
        await asyncio.sleep(0.05)
        assert clock.activity().computing == 1
        before = clock.activity().sequence
        go.set()
        await computing
        assert clock.activity().computing == 0
        assert clock.activity().sequence > before
        await clock.quiet()

    _fly(work())


def test_a_missed_charge_is_told() -> None:
    async def work() -> None:
        clock = MissionClock()
        missed: list[tuple[float, float]] = []
        clock.on_overrun = lambda charge_s, late_s: missed.append((charge_s, late_s))
        clock.start(monotonic_s())
        go = threading.Event()
        asyncio.get_running_loop().call_later(0.5, go.set)
        await clock.compute(0.1, go.wait)
        assert len(missed) == 1
        assert missed[0][0] == 0.1
        assert 0.3 < missed[0][1] < 0.4 + LATE_S
        await clock.compute(0.5, lambda: None)
        assert len(missed) == 1

    _fly(work())


def test_bytes_are_declared_at_once_and_move_when_the_clock_runs() -> None:
    async def work() -> None:
        clock, moved = MissionClock(), asyncio.Event()
        overlaps: list[float] = []
        clock.on_overlap = overlaps.append
        clock.start(monotonic_s())
        clock.apply(ClockCommit(clock.epoch + 1, monotonic_s(), 5.0, running=False))

        async def send() -> None:
            async with clock.in_flight():
                assert clock.now() >= 5.0
                moved.set()

        sending = asyncio.ensure_future(send())
        await asyncio.sleep(0.05)
        assert (clock.activity().in_flight, clock.activity().moving) == (1, 0)
        assert not moved.is_set()
        run_s = monotonic_s() + 0.1
        clock.apply(ClockCommit(clock.epoch + 1, run_s, 5.0, running=True))
        await sending
        assert monotonic_s() >= run_s
        assert overlaps == []

    _fly(work())


@pytest.mark.parametrize("undone", [False, True])
def test_bytes_that_move_when_a_hold_comes_are_told_unless_it_is_undone(undone: bool) -> None:
    async def work() -> None:
        clock = MissionClock()
        overlaps: list[float] = []
        clock.on_overlap = overlaps.append
        clock.start(monotonic_s())
        begun_s = monotonic_s()
        async with clock.in_flight():
            clock.apply(ClockCommit(clock.epoch + 1, begun_s + 0.25, 0.25, running=False))
            mission_s = 0.5 if undone else 0.25
            clock.apply(ClockCommit(clock.epoch + 1, begun_s + 0.5, mission_s, running=True))
        assert overlaps == ([] if undone else [pytest.approx(0.25)])
        clock.apply(ClockCommit(clock.epoch + 1, begun_s + 0.75, 0.75, running=False))
        clock.apply(ClockCommit(clock.epoch + 1, begun_s + 1.0, 0.75, running=True))
        assert len(overlaps) == (0 if undone else 1)  # nothing moved in the second one

    _fly(work())


def test_bytes_that_stop_moving_inside_a_hold_overlap_until_then() -> None:
    async def work() -> None:
        clock = MissionClock()
        overlaps: list[float] = []
        clock.on_overlap = overlaps.append
        clock.start(monotonic_s())
        async with clock.in_flight():
            held_s = monotonic_s()
            clock.apply(ClockCommit(clock.epoch + 1, held_s, 5.0, running=False))
            await asyncio.sleep(0.1)
        moved_s = monotonic_s() - held_s
        clock.apply(ClockCommit(clock.epoch + 1, held_s + 100.0, 5.0, running=True))
        assert 0.1 <= overlaps[0] <= moved_s

    _fly(work())
