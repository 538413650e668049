"""What keeps the mission clock of a local rack: the kernel itself, or a timekeeper over real time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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

    def observe(self, observer: Record) -> None:
        """Nothing happens to the clock."""

    def facts(self) -> dict[str, Any]:
        return {}


class RealKeeper(Keeper):
    """Real time: skip and hold by agreement of all nodes."""

    def __init__(self, plan: MissionPlan) -> None:
        self._own = MissionClock()
        self.clock = self._own
        edges = {change[0] for links in plan.link_plans.values() for change in links.changes()}
        self._timekeeper = Timekeeper(self._own, plan.nodes, sorted(edges))

    def serve(self, server: Any, follow: Follow, undecided: Callable[[], int]) -> None:
        self._timekeeper.follow = follow
        self._timekeeper.undecided = undecided
        add_ClockServiceServicer_to_server(self._timekeeper, server)  # type: ignore[no-untyped-call]

    def begin(self, mission_zero_s: float) -> None:
        self._timekeeper.begin(mission_zero_s)

    def observe(self, observer: Record) -> None:
        self._timekeeper.record = observer

    def facts(self) -> dict[str, Any]:
        return {"skips": self._timekeeper.skips, "holds": self._timekeeper.holds}


_KEEPERS: dict[str, Callable[[MissionPlan], Keeper]] = {"kernel": KernelKeeper, "real": RealKeeper}


def make_keeper(kind: str, plan: MissionPlan) -> Keeper:
    """The keeper of a rack's clock: ``kernel`` on a time-travel kernel, ``real`` elsewhere."""
    return _KEEPERS[kind](plan)
