"""An asyncio event loop whose time jumps: when nothing is ready, the next timer is now."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

from testbed.errors import BugError


class _JumpingSelector(selectors.BaseSelector):
    """Polls instead of waiting, and moves the loop's clock by what it would have waited."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready:
            if timeout is None:
                raise BugError("every node waits for a message that nobody will send")
            self.now_s += max(timeout, 0.0)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Starts at 0; runs callbacks in the order of their times. Where times are equal the order is asyncio's heap's: it
    depends on the program alone and is the same every time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s
