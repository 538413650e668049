"""Mission time: what every duration in Skyrack is measured in.

Mission time is seconds since the scenario's epoch. Node code sees only :class:`Clock`; which regime stands behind it
(virtual time of one process, a time-travel kernel, or real time with skip and hold) is the rack's affair.

:class:`ClockMap` is the pure arithmetic between mission time and a kernel's monotonic clock: a list of commits, each
saying that from a real instant on mission time runs from a value, or stands still at it.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class ClockCommit:
    """From the real instant ``real_s`` on, mission time is ``mission_s`` and runs (or stands still).

    ``epoch`` counts commits from 0; ``real_s`` is CLOCK_MONOTONIC of the kernel that hosts the nodes.
    """

    epoch: int
    real_s: float
    mission_s: float
    running: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class ClockMap:
    """Piecewise linear map between real and mission time.

    >>> clock = ClockMap(ClockCommit(0, real_s=100.0, mission_s=0.0, running=True))
    >>> clock.commit(ClockCommit(1, real_s=110.0, mission_s=60.0, running=True))
    >>> clock.mission_at(105.0), clock.mission_at(111.0), clock.real_at(62.0)
    (5.0, 61.0, 112.0)
    """

    def __init__(self, start: ClockCommit) -> None:
        self._commits = [start]

    @property
    def latest(self) -> ClockCommit:
        """The last commit, which may not have taken effect yet."""
        return self._commits[-1]

    def commit(self, commit: ClockCommit) -> None:
        """Append a commit; ``epoch`` and ``real_s`` must not go backwards."""
        if commit.epoch <= self.latest.epoch or commit.real_s < self.latest.real_s:
            raise ValueError(f"clock commit {commit} does not follow {self.latest}")
        self._commits.append(commit)

    def at(self, real_s: float) -> ClockCommit:
        """The commit in force at a real instant."""
        for commit in reversed(self._commits):
            if commit.real_s <= real_s:
                return commit
        return self._commits[0]

    def mission_at(self, real_s: float) -> float:
        """Mission time at a real instant (negative before the mission starts)."""
        commit = self.at(real_s)
        return commit.mission_s + (real_s - commit.real_s if commit.running else 0.0)

    def real_at(self, mission_s: float) -> float | None:
        """The real instant of a mission time, or None while the latest commit holds the clock before it."""
        latest = self.latest
        if mission_s <= latest.mission_s:
            return latest.real_s
        return latest.real_s + (mission_s - latest.mission_s) if latest.running else None


class Clock(ABC):
    """What node code may do with time. It never reads another clock and never sleeps otherwise."""

    @abstractmethod
    def now(self) -> float:
        """Mission time in seconds."""

    @abstractmethod
    async def sleep_until(self, mission_s: float) -> None:
        """Return at (or as soon as possible after) a mission time."""

    @abstractmethod
    async def compute(self, charge_s: float, work: Callable[[], T]) -> T:
        """Do ``work`` and let it cost exactly ``charge_s`` of mission time, as the device profile says."""

    async def ahead(self, work: Callable[[], T]) -> T:
        """Do, without cost, work that a later :meth:`compute` is charged for."""
        return work()

    def in_flight(self) -> AbstractAsyncContextManager[None]:
        """Declare bytes in flight, from the sender's declaration to the receiver's acknowledgement; entered as soon as
        they may move."""
        return nullcontext()

    def busy(self) -> AbstractContextManager[None]:
        """Declare a management call: nothing on a data link, but something is about to happen."""
        return nullcontext()

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait for a declared message."""
        return await awaitable


class LoopClock(Clock):
    """Mission time is the event loop's own time, less a start.

    Right wherever computing costs no loop time: in the one-process rack, whose loop is virtual, and on a time-travel
    kernel, whose clock stands still while anything computes. A charge is then simply a sleep.
    """

    def __init__(self, zero_s: float = 0.0) -> None:
        self._zero_s = zero_s

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._zero_s

    async def sleep_until(self, mission_s: float) -> None:
        # Again, because timers fire a nanosecond early and sums are rounded; what is left may be less than the loop's
        # time can tell apart.
        while (left_s := mission_s - self.now()) > 0:  # noqa: ASYNC110 - the time itself is what is waited for
            await asyncio.sleep(max(left_s, math.ulp(asyncio.get_running_loop().time())))

    async def compute(self, charge_s: float, work: Callable[[], T]) -> T:
        done_s = self.now() + charge_s
        result = work()
        await self.sleep_until(done_s)
        return result


def monotonic_s() -> float:
    """CLOCK_MONOTONIC, the real clock that commits refer to."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class StartableClock(Clock):
    """A clock that learns where mission time zero is after it was made."""

    @abstractmethod
    def start(self, mission_zero_s: float) -> None:
        """Mission time zero is at this instant of CLOCK_MONOTONIC."""


class KernelClock(LoopClock, StartableClock):
    """The clock of nodes on a time-travel kernel: the guest's own monotonic clock is mission time."""

    def start(self, mission_zero_s: float) -> None:
        self._zero_s = mission_zero_s
