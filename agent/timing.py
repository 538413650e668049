"""Which clock a node's process runs on, and what keeps that clock in step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent.attendance import Attendance
from agent.process import Seat
from testbed.clock import KernelClock, StartableClock
from testbed.mission_clock import MissionClock
from testbed.node.orders import Report

Note = Callable[[Report], None]


class Keeping(Protocol):
    """What must run beside a clock."""

    def begin(self) -> None:
        """Start it."""

    async def close(self) -> None:
        """End it."""


class _Nothing:
    """A time-travel kernel keeps its own time."""

    def begin(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to end."""


def _kernel(seat: Seat, note: Note) -> tuple[StartableClock, Keeping]:
    return KernelClock(), _Nothing()


def _real(seat: Seat, note: Note) -> tuple[StartableClock, Keeping]:
    clock = MissionClock()

    def tell(kind: str, **data: float) -> None:
        note(Report(seat.node, kind, clock.now(), 0, data))

    clock.on_overrun = lambda charge_s, late_s: tell("overrun", charge_s=charge_s, late_s=late_s)
    clock.on_late = lambda late_s: tell("stall", late_s=late_s)
    clock.on_overlap = lambda held_s: tell("overlap", held_s=held_s)
    return clock, Attendance(seat.node, clock, seat.controller_address, seat.credentials)


_CLOCKS: dict[str, Callable[[Seat, Note], tuple[StartableClock, Keeping]]] = {"kernel": _kernel, "real": _real}


def make_clock(seat: Seat, note: Note) -> tuple[StartableClock, Keeping]:
    """The clock of a seat (``kernel`` on a time-travel kernel, ``real`` elsewhere) and what keeps it; ``note`` hears of
    charges that were missed and of stalls."""
    return _CLOCKS[seat.clock](seat, note)
