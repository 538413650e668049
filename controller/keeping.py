"""What keeps the mission clock of a local rack: the kernel itself, or a timekeeper over real time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.timekeeper import Timekeeper
from protos.skyrack.v1.clock_pb2_grpc import add_ClockServiceServicer_to_server
from testbed.clock import ClockCommit, KernelClock, StartableClock
from testbed.mission import MissionPlan
from testbed.mission_clock import MissionClock
from testbed.rack.base import Record

Follow = Callable[[ClockCommit], None]


class Keeper(ABC):
    """The controller's clock and what keeps everybody's in step with it."""

    clock: StartableClock

    @abstractmethod
    def serve(self, server: Any, follow: Follow, undecided: Callable[[], int]) -> None:
        """Add what nodes dial to the controller's server; ``follow`` hears of commits, ``undecided`` counts reports
        that the controller has not acted on."""

    @abstractmethod
    def begin(self, mission_zero_s: float) -> None:
        """The mission starts at this instant of CLOCK_MONOTONIC."""

    @abstractmethod
    def lose(self, node: str) -> None:
        """A node is dead: nothing more is to be agreed on with it."""

    @abstractmethod
    def observe(self, observer: Record) -> None:
        """Send clock events to ``observer``."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """For the manifest."""


class KernelKeeper(Keeper):
    """A time-travel kernel: its clock is mission time, there is nothing to agree on."""

    def __init__(self, plan: MissionPlan) -> None:
        self.clock = KernelClock()

    def serve(self, server: Any, follow: Follow, undecided: Callable[[], int]) -> None:
        """Nothing to serve."""

    def begin(self, mission_zero_s: float) -> None:
        """Nothing to begin."""

    def lose(self, node: str) -> None:
        """Nothing to agree on."""

    def observe(self, observer: Record) -> None:
        """Nothing happens to the clock."""

    def facts(self) -> dict[str, Any]:
        return {}


class BusyMeter:
    """The share of processor time in use while mission time runs, from the kernel's own count (proc(5), /proc/stat)."""

    def __init__(self) -> None:
        self._busy = self._total = 0
        self._since: tuple[int, int] | None = None

    def run(self, running: bool) -> None:
        """Mission time runs from here on, or stands still; time that stands still is not counted."""
        now = self._read()
        if self._since is not None:
            self._busy += now[0] - self._since[0]
            self._total += now[1] - self._since[1]
        self._since = now if running else None

    def ratio(self) -> float | None:
        """Busy share so far; None before anything was counted."""
        self.run(self._since is not None)
        return self._busy / self._total if self._total else None

    @staticmethod
    def _read() -> tuple[int, int]:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        idle = ticks[3] + ticks[4]  # idle and iowait
        return sum(ticks) - idle, sum(ticks)


class RealKeeper(Keeper):
    """Real time: skip and hold by agreement of all nodes."""

    def __init__(self, plan: MissionPlan) -> None:
        self._own = MissionClock()
        self.clock = self._own
        edges = {change[0] for links in plan.link_plans.values() for change in links.changes()}
        self._timekeeper = Timekeeper(self._own, plan.nodes, sorted(edges))
        self._busy = BusyMeter()

    def serve(self, server: Any, follow: Follow, undecided: Callable[[], int]) -> None:
        def follow_and_measure(commit: ClockCommit) -> None:
            self._busy.run(commit.running)
            follow(commit)

        self._timekeeper.follow = follow_and_measure
        self._timekeeper.undecided = undecided
        add_ClockServiceServicer_to_server(self._timekeeper, server)

    def begin(self, mission_zero_s: float) -> None:
        self._timekeeper.begin(mission_zero_s)
        self._busy.run(True)

    def lose(self, node: str) -> None:
        self._timekeeper.lose(node)

    def observe(self, observer: Record) -> None:
        self._timekeeper.record = observer

    def facts(self) -> dict[str, Any]:
        return {
            "skips": self._timekeeper.skips,
            "holds": self._timekeeper.holds,
            "busy_ratio": self._busy.ratio(),
        }


_KEEPERS: dict[str, Callable[[MissionPlan], Keeper]] = {"kernel": KernelKeeper, "real": RealKeeper}


def make_keeper(kind: str, plan: MissionPlan) -> Keeper:
    """The keeper of a rack's clock: ``kernel`` on a time-travel kernel, ``real`` elsewhere."""
    return _KEEPERS[kind](plan)
