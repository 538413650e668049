"""Whose chunk goes next over one link: by priority, then in the order of asking."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(order=True)
class _Waiter:
    rank: tuple[int, int]
    starting: bool = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class Turns:
    """One turn at a time, and at most ``slots`` chunks under way: sent, or being sent, and not yet acknowledged."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken = False
        self._asked = 0
        self._waiting: list[_Waiter] = []

    @asynccontextmanager
    async def slot(self, priority: int) -> AsyncIterator[Slot]:
        """A slot, and with it the turn: entered when no chunk of a higher ``priority`` waits, nor an older one of the
        same."""
        await self._wait(priority, starting=True)
        slot = Slot(self, priority)
        try:
            yield slot
        finally:
            self._slots += 1
            if slot.has_turn:
                self.pass_on()
            self._next()

    async def again(self, priority: int) -> None:
        """The turn for a chunk that has its slot."""
        await self._wait(priority, starting=False)

    def pass_on(self) -> None:
        """End the turn."""
        self._taken = False
        self._next()

    async def _wait(self, priority: int, *, starting: bool) -> None:
        self._asked += 1
        waiter = _Waiter((-priority, self._asked), starting, asyncio.get_running_loop().create_future())
        insort(self._waiting, waiter)
        self._next()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.turn.cancelled():  # it was our turn, and we are gone
                self._slots += starting
                self.pass_on()
            raise

    def _next(self) -> None:
        if self._taken:
            return
        able = (one for one in self._waiting if self._slots > 0 or not one.starting)
        waiter = next((one for one in able if not one.turn.done()), None)  # done: cancelled, and about to go
        if waiter is None:
            return
        self._waiting.remove(waiter)
        self._taken = True
        self._slots -= waiter.starting
        waiter.turn.set_result(None)


class Slot:
    """A chunk under way. ``async with slot`` holds the link's turn; the first time it is there already."""

    def __init__(self, turns: Turns, priority: int) -> None:
        self._turns = turns
        self._priority = priority
        self.has_turn = True

    async def __aenter__(self) -> None:
        if not self.has_turn:
            await self._turns.again(self._priority)
            self.has_turn = True

    async def __aexit__(self, *_: object) -> None:
        self.has_turn = False
        self._turns.pass_on()
