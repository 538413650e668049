"""The mission clock in real time: runs with real time, skips what nobody needs, holds while a shared host computes.

DESIGN, decision 7. A node's clock follows commits of one timekeeper; without them it simply runs. What the timekeeper
must know to decide (bytes in flight, computing, the next mission time waited for) is counted here.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from testbed.clock import ClockCommit, ClockMap, StartableClock, monotonic_s

T = TypeVar("T")

OVERRUN_S = 0.02
"""A charge missed by more than this, while bytes were in flight anywhere, is an overrun: the timekeeper's commits take
effect 10 ms ahead, and Python's timers are a few milliseconds late on a busy host."""
LATE_S = 0.1
"""A node that wakes up this much after the time it waited for did not get its processor: the host was stalled. Eight
satellites that wake together and send on one guest processor keep each other waiting for 50 to 80 ms."""
QUIET_TURNS = 5
"""Turns of the event loop without a change of activity before a node calls itself quiet."""


@dataclass(frozen=True)
class Activity:
    """What a node is doing, as its vote sees it."""

    sequence: int
    in_flight: int
    moving: int
    computing: int
    busy: int
    wake_mission_s: float | None


NICENESS = 10
"""Of threads that compute: with it the kernel gives them a tenth of what it gives an event loop (sched(7))."""


def _give_way() -> None:
    """On a shared processor whoever computes lets whoever talks go first: news that comes late is a hold that comes
    late."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class MissionClock(StartableClock):
    """One node's clock. ``on_activity`` is called after every change of what :meth:`activity` says."""

    def __init__(self) -> None:
        self._map = ClockMap(ClockCommit(0, monotonic_s(), 0.0, running=False))
        self._waiters: list[tuple[float, int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0
        self._in_flight = 0
        self._moving = 0
        self._overlap_s = 0.0
        self._committed = asyncio.Event()
        self._computing = 0
        self._worker = ThreadPoolExecutor(1, initializer=_give_way)
        self._busy = 0
        self._sequence = 0
        self.on_activity: Callable[[], None] = lambda: None
        self.on_overrun: Callable[[float, float], None] = lambda charge_s, late_s: None
        self.on_late: Callable[[float], None] = lambda late_s: None
        self.on_overlap: Callable[[float], None] = lambda held_s: None

    # -- following the timekeeper ---------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The latest commit's number."""
        return self._map.latest.epoch

    def start(self, mission_zero_s: float) -> None:
        self.apply(ClockCommit(self.epoch + 1, max(mission_zero_s, self._map.latest.real_s), 0.0, running=True))

    def apply(self, commit: ClockCommit) -> None:
        """Follow a commit from its real instant on; one that is not newer than the latest changes nothing."""
        if commit.epoch > self.epoch:
            held = self._map.latest
            self._map.commit(commit)
            if not held.running:
                if self._moving:
                    self._overlap_s = commit.real_s - held.real_s
                if self._overlap_s > 0 and commit.mission_s == held.mission_s:
                    self.on_overlap(self._overlap_s)
            self._overlap_s = 0.0
            self._committed.set()
            self._committed.clear()
            self._arm()

    def activity(self) -> Activity:
        """What a vote is cast on."""
        return Activity(
            self._sequence,
            self._in_flight,
            self._moving,
            self._computing,
            self._busy,
            self._waiters[0][0] if self._waiters else None,
        )

    async def quiet(self) -> None:
        """Return once nothing on this loop is about to change the activity."""
        turns, seen = 0, self._sequence
        while turns < QUIET_TURNS:
            await asyncio.sleep(0)
            turns, seen = (turns + 1, seen) if seen == self._sequence else (0, self._sequence)

    # -- what node code sees --------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._map.mission_at(monotonic_s())

    async def sleep_until(self, mission_s: float) -> None:
        while self.now() < mission_s:
            self._count += 1
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (mission_s, self._count, future)
            heapq.heappush(self._waiters, entry)
            self._changed()
            self._arm()
            try:
                await future
            finally:
                if entry in self._waiters:
                    self._waiters.remove(entry)
                    heapq.heapify(self._waiters)
                self._changed()

    async def compute(self, charge_s: float, work: Callable[[], T]) -> T:
        """Compute in a thread; the clock is held meanwhile where it can be, then the rest of the charge passes."""
        done_s = self.now() + charge_s
        self._computing += 1
        self._changed()
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            self._computing -= 1
            self._changed()
        late_s = self.now() - done_s
        if late_s > OVERRUN_S:
            self.on_overrun(charge_s, late_s)
        await self.sleep_until(done_s)
        return result

    async def ahead(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    @asynccontextmanager
    async def in_flight(self) -> AsyncIterator[None]:
        self._in_flight += 1
        self._changed()
        try:
            await self._running()
            self._moving += 1
            self._changed()
            try:
                yield
            finally:
                self._moving -= 1
                if not self._map.latest.running and not self._moving:
                    # The hold came while these bytes moved; mission time missed them unless it is undone.
                    self._overlap_s = max(0.0, monotonic_s() - self._map.latest.real_s)
        finally:
            self._in_flight -= 1
            self._changed()

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._busy += 1
        self._changed()
        try:
            yield
        finally:
            self._busy -= 1
            self._changed()

    async def _running(self) -> None:
        """Return once the clock runs: bytes that move while it stands would cost no mission time."""
        while True:
            latest, now_s = self._map.latest, monotonic_s()
            if latest.running and latest.real_s <= now_s:
                return
            if latest.running:
                await asyncio.sleep(latest.real_s - now_s)
            else:
                await self._committed.wait()

    def _changed(self) -> None:
        self._sequence += 1
        self.on_activity()

    def _arm(self) -> None:
        """Set the loop's timer for the earliest waiter under the commit in force (or coming)."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiters:
            return
        loop = asyncio.get_running_loop()
        latest, now_s = self._map.latest, monotonic_s()
        if latest.real_s > now_s and self._map.at(now_s) is not latest:
            # Until the coming commit takes effect the old one counts; look again at both instants.
            due = latest.real_s
            before = self._map.at(now_s)
            if before.running:
                due = min(due, before.real_s + max(0.0, self._waiters[0][0] - before.mission_s))
        else:
            real_s = self._map.real_at(self._waiters[0][0])
            if real_s is None:
                return
            due = real_s
        self._timer = loop.call_at(loop.time() + max(0.0, due - now_s), self._wake)

    def _wake(self) -> None:
        now_s = self.now()
        while self._waiters and self._waiters[0][0] <= now_s:
            due_s, _, future = heapq.heappop(self._waiters)
            if now_s - due_s > LATE_S:
                self.on_late(now_s - due_s)
            if not future.done():
                future.set_result(None)
        self._arm()
